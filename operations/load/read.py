"""Read a source: check all its lines, or yield its rows in batches, each with its end position."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from operations.load.lines import CLIENT_ID, HEADER, LINE, BadLine, Client, Form, form_of
from operations.load.source import Source
from operations.load.twice import Twice
from service.runtime.errors import ServiceError

BATCH: Final = 25
"""Most rows in one call."""
LINE_MAX: Final = 64 * 1024
"""Bytes. A longer line is not a row: the file is something else."""
BOM: Final = b"\xef\xbb\xbf"
DIGEST_BYTES: Final = 16

Tell = Callable[[int, str, str], None]
"""Report a bad line: its number, the column, and the reason."""


class BadFile(Exception):
    """The source has bad lines, which have been reported. `at_its_end`: all of it had been read."""

    def __init__(self, *, at_its_end: bool = False) -> None:
        super().__init__()
        self.at_its_end = at_its_end


@dataclass(frozen=True, slots=True)
class Mark:
    """A position between two lines."""

    offset: int = 0
    """Bytes before it."""
    lines: int = 0
    digest: str = ""
    """Digest of the lines before it."""


START: Final = Mark()


@dataclass(frozen=True, slots=True)
class Batch:
    number: int
    clients: Sequence[tuple[int, Client]]
    """Line number and client."""
    end: Mark


@dataclass(slots=True)
class Content:
    """What a check found."""

    rows: int = 0
    bad: int = 0
    size: int = 0
    digest: str = ""
    """Digest of all bytes."""


class Parser:
    """Parses lines in order; the first one that is not empty determines the form."""

    def __init__(self) -> None:
        self._form: Form | None = None

    @property
    def has_begun(self) -> bool:
        return self._form is not None

    def client(self, number: int, raw: bytes, *, is_cut: bool = False) -> Client | None:
        """Return the client in a line; None for the header and for an empty line. Raises `BadLine`.

        `is_cut`: it is the last line of a pipe, and has no line feed.
        """
        line = raw.removeprefix(BOM) if number == 1 else raw
        if not line.strip():
            return None
        if self._form is None:
            self._form = form_of(line)
            if self._form.has_header and not is_cut:
                return None
        if is_cut and self._form.has_header:  # half a JSON line is invalid JSON, but half a balance is a balance
            raise BadLine(LINE, "has no line feed: the pipe may be cut off")
        return self._form.parse(line)

    def usual(self, lines: Sequence[bytes]) -> Sequence[bytes] | None:
        """Return the client ids if all lines have the most common form, which is valid; else None."""
        if self._form is None or self._form.usual is None:
            return None
        found: list[bytes] = self._form.usual.findall(b"\n".join(lines))
        return found if len(found) == len(lines) else None


async def check(source: Source, tell: Tell, seen: Callable[[int, int], None]) -> Content:
    """Parse every line, report the bad ones, and return what was found. Calls `seen` with bytes and rows so far."""
    found, whole = Content(), hashlib.blake2b(digest_size=DIGEST_BYTES)
    checking = _Check(found, tell)
    try:
        async for lines, block in _lines(source.blocks()):
            whole.update(block)
            found.size += len(block)
            if not checking.take(lines, is_cut=source.size is None and not block):
                return found
            seen(found.size, found.rows)
        checking.end()
    finally:
        checking.twice.close()
    found.digest = whole.hexdigest()
    return found


class _Check:
    def __init__(self, found: Content, tell: Tell) -> None:
        self._found = found
        self._tell = tell
        self._parser = Parser()
        self._number = 0
        self.twice = Twice()

    def take(self, lines: Sequence[bytes], *, is_cut: bool) -> bool:
        """Check the next lines; return False if reading must stop for lack of a usable header."""
        ids = None if is_cut else self._parser.usual(lines)
        if ids is not None:
            for number, client_id in enumerate(ids, self._number + 1):
                self.twice.add(client_id, number)
            self._number += len(ids)
            self._found.rows += len(ids)
            return True
        for raw in lines:
            self._number += 1
            try:
                client = self._parser.client(self._number, raw, is_cut=is_cut)
            except BadLine as error:
                self._bad(self._number, error.column, error.reason)
                if error.column == HEADER:
                    return False
                continue
            if client:
                self._found.rows += 1
                self.twice.add(client.client_id.encode(), self._number)
        return True

    def end(self) -> None:
        for again, before in self.twice.found():
            self._bad(again, CLIENT_ID, f"is the one of line {before} too")
        if not (self._parser.has_begun or self._found.bad):
            self._bad(1, LINE, "is missing: there is nothing to load")

    def _bad(self, line: int, column: str, reason: str) -> None:
        self._found.bad += 1
        self._tell(line, column, reason)


class Reader:
    """Yields the rows of a source from a mark on.

    A pipe has not been checked before: it ends with `BadFile` at the first bad line, or after the last line if an id is
    duplicated. What was yielded until then is good.
    """

    def __init__(self, source: Source, tell: Tell, start: Mark) -> None:
        self._source = source
        self._tell = tell
        self._start = start
        self._parser = Parser()
        self._is_bad = False
        self._lines = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._twice = Twice() if source.size is None else None

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield all batches in order.

        Raises `ServiceError` if the source cannot be read, or is not the one that the mark belongs to.
        """
        count, is_bad = 0, False
        try:
            async for clients, end in self._batches():
                yield Batch(count, clients, end)
                count += 1
            for again, before in self._twice.found() if self._twice else ():
                self._tell(again, CLIENT_ID, f"is the one of line {before} too")
                is_bad = True
        finally:
            if self._twice:
                self._twice.close()
        if is_bad:
            raise BadFile(at_its_end=True)

    async def _batches(self) -> AsyncIterator[tuple[Sequence[tuple[int, Client]], Mark]]:
        offset = number = 0
        if self._source.size is not None and self._start != START:
            await self._read_header()
            offset, number = self._start.offset, self._start.lines
        clients = list[tuple[int, Client]]()
        ids = set[str]()
        async for raw, is_cut in self._raws(offset):
            client = self._client(number + 1, raw, is_cut=is_cut)
            if self._is_bad:
                break
            if client and (client.client_id in ids or len(clients) == BATCH):  # a call refuses two rows of one client
                yield clients, self._mark(offset, number)
                clients, ids = [], set()
            number += 1
            offset += len(raw) + 1
            self._lines.update(raw + b"\n")
            if number <= self._start.lines:
                self._pass_over(number)
            elif client:
                clients.append((number, client))
                ids.add(client.client_id)
        if number < self._start.lines:
            raise self._is_another("ends before the place where the checkpoint is")
        if clients:
            yield clients, self._mark(offset, number)
        if self._is_bad:
            raise BadFile

    async def _raws(self, offset: int) -> AsyncIterator[tuple[bytes, bool]]:
        async for lines, block in _lines(self._source.blocks(offset)):
            for raw in lines:
                yield raw, self._source.size is None and not block

    def _pass_over(self, number: int) -> None:
        """Raise `ServiceError` if the lines of a pipe up to the mark differ from those in the checkpoint."""
        if number == self._start.lines and self._lines.hexdigest() != self._start.digest:
            raise self._is_another("does not begin as it did when the checkpoint was written")

    def _is_another(self, why: str) -> ServiceError:
        return ServiceError(f"{self._source.name} {why}", "give the same rows, or remove the checkpoint to begin again")

    def _mark(self, offset: int, lines: int) -> Mark:
        return Mark(offset, lines, self._lines.hexdigest())

    def _client(self, number: int, raw: bytes, *, is_cut: bool = False) -> Client | None:
        try:
            client = self._parser.client(number, raw, is_cut=is_cut)
        except BadLine as error:
            self._tell(number, error.column, error.reason)
            self._is_bad = True
            return None
        if client and self._twice:
            self._twice.add(client.client_id.encode(), number)
        return client

    async def _read_header(self) -> None:
        number = 0
        async for lines, _ in _lines(self._source.blocks()):
            for raw in lines:
                number += 1
                self._client(number, raw)
                if self._parser.has_begun:
                    return


async def _lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[tuple[list[bytes], bytes]]:
    """Yield the complete lines of each block, and the block; a last line without a line feed has the block b"".

    Raises `ServiceError` for a line that is too long.
    """
    rest, count = b"", 0
    async for block in blocks:
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        count += len(lines)
        if len(rest) > LINE_MAX:
            raise ServiceError(
                f"line {count + 1} has more than {LINE_MAX:,} bytes", "give CSV or JSON lines, not compressed"
            )
        yield lines, block
    if rest:
        yield [rest], b""
