"""nats-py's parser, with a fast path for subscriptions that take all messages of a read at once, as columns.

nats-py matches one message at the front of its buffer, cuts it off and awaits a coroutine for it. Here one regular
expression finds all messages of a read, and each callback gets consecutive messages together.

| part of a read | how it is parsed |
| --- | --- |
| messages with a one-line payload, with or without headers | all in one search |
| other messages: several lines, unusual subject | one by one, by their sizes |
| PING, PONG, INFO, +OK, -ERR | one by one, by nats-py |
| an incomplete message | kept until enough bytes have arrived |

A payload may itself look like messages, so a search is valid only up to the first message whose sizes do not match.
As many messages as it found beyond that are then parsed one by one, so that no read is searched more than twice.
https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from nats.protocol import parser

_WIRE: Final = "latin-1"
"""Maps each byte to one character, so that lengths in text are lengths on the wire."""


class Read(NamedTuple):
    """Messages of one read as columns, in order of arrival. Each character is one byte."""

    sids: Sequence[str]
    replies: Sequence[str]
    """Empty for a message without one."""
    headers: Sequence[str]
    """Each header block, unparsed; empty for a message without one."""
    payloads: Sequence[str]
    subjects: Sequence[str]


RawMessage = tuple[bytes, bytes, bytes, bytes]
"""Subject, reply, payload and header block, unparsed; a missing reply or block is empty."""
Callback = Callable[[Read], None]
_Row = tuple[str, str, str, str, str, str, str, str, str]
"""'H' or '', subject, sid, reply, header size, total size, headers, payload; the last is the rest without a match."""

# nats-py ends a word at any white space, the server only at a blank: a form feed in a reply ended the connection.
_WORD: Final = "([^ \r\n]+)"
_MSG: Final = rf"MSG +{_WORD} +(\d+) +(?:{_WORD} +)?()(\d+)\r\n"
_HMSG: Final = rf"HMSG +{_WORD} +(\d+) +(?:{_WORD} +)?(\d+) +(\d+)\r\n"
_one: Final = re.compile(f"{_HMSG}|{_MSG}").match
_all: Final = re.compile(
    r"(H)?MSG ([!-~]+) (\d+) (?:([!-~]+) )?(?(1)(\d{1,9}) )(\d{1,9})\r\n"
    r"(?(1)(NATS/1\.0[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n))([^\r\n]*)\r\n|(.+)",
    re.DOTALL,
).findall
"""The last alternative takes everything from the first mismatch on, so that the search skips nothing."""


def raw(read: Read) -> Iterator[RawMessage]:
    """Yield the messages one by one, as bytes."""
    for subject, reply, payload, block in zip(read.subjects, read.replies, read.payloads, read.headers, strict=True):
        yield subject.encode(_WIRE), reply.encode(_WIRE), payload.encode(_WIRE), block.encode(_WIRE)


class Parser(parser.Parser):
    """Passes messages to `callbacks` (by sid), the rest to nats-py. Calls `on_error(error)` when a callback raises."""

    def __init__(self, nc: Any, callbacks: Mapping[str, Callback], on_error: Callable[[Exception], None]) -> None:
        self._enough = 0
        """Bytes that the incomplete message at the front of the buffer needs; 0 if unknown."""
        self._resets = 0
        super().__init__(nc)
        self._callbacks = callbacks
        self._on_error = on_error

    def reset(self) -> None:
        super().reset()
        self._enough = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        self.buf.extend(data)
        if len(self.buf) < self._enough:
            return
        text, at, resets = self.buf.decode(_WIRE), 0, self._resets
        self.buf.clear()
        self._enough = 0
        while at < len(text):
            rows, at = self._find(text, at)
            await self._give(rows)
            # What follows is an incomplete message (`_enough` is set), or a line for nats-py.
            end = 0 if self._enough else text.find(parser._CRLF_.decode(), at) + parser.CRLF_SIZE
            line = text[at:end] if end >= parser.CRLF_SIZE else text[at:]
            if self._resets != resets:
                return  # a callback led to a reconnect: the rest belongs to the old connection
            self.buf[:] = line.encode(_WIRE)
            if self._enough:
                return
            await super().parse()  # handles one line, or part of one, in `self.buf`: PING and the like
            if self._resets != resets:
                return
            at += len(line)

    def _find(self, text: str, at: int) -> tuple[list[_Row], int]:
        """Return the complete messages from `at` on, and the position where something else begins."""
        rows: list[_Row] = []
        in_vain = 0
        while at < len(text):
            if in_vain:
                in_vain -= 1
            else:
                found = _all(text, at)
                rest = found[-1][-1]  # text from the first mismatch on; '' if everything matched
                if rest:
                    found.pop()
                good = _whole(found)
                in_vain = len(found) - good
                rows += found[:good]
                at = at + sum(map(_length, found[:good])) if in_vain else len(text) - len(rest)
            line = _one(text, at)  # `_all` did not match here, or the sizes were wrong
            if line is None:
                break
            row, end = _row(text, line)
            if end > len(text):
                self._enough = end - at
                break
            rows.append(row)
            at = end
        return rows, at

    async def _give(self, rows: Sequence[_Row]) -> None:
        """Pass messages on in order: consecutive ones for the same callback go together.

        Order matters across subscriptions too: a consumer numbers its deliveries across all pulls.
        """
        # Look each up before the first call: a callback may end subscriptions.
        taken_by = {sid: self._callbacks.get(sid) for sid in {row[2] for row in rows}}
        is_one = len(set(taken_by.values())) == 1  # nearly every read: no need to look at each message
        runs = [(taken_by[rows[0][2]], rows)] if is_one else groupby(rows, key=lambda row: taken_by[row[2]])
        for taker, run in runs:
            theirs = list(run)
            if taker is None:
                await self._leave(theirs)
                continue
            _, subjects, sids, replies, _, _, headers, payloads, _ = zip(*theirs, strict=True)
            self.nc.stats["in_msgs"] += len(theirs)
            self.nc.stats["in_bytes"] += sum(map(len, payloads))
            try:
                taker(Read(sids, replies, headers, payloads, subjects))
            except Exception as error:  # one failed callback must not end the reading task
                self._on_error(error)

    async def _leave(self, rows: Sequence[_Row]) -> None:
        """Pass messages to nats-py, as its own parser does."""
        for _, subject, sid, reply, _, _, block, payload, _ in rows:
            words = subject.encode(_WIRE), reply.encode(_WIRE), payload.encode(_WIRE)
            await self.nc._process_msg(int(sid), *words, block.encode(_WIRE) or None)


def _whole(rows: Sequence[_Row]) -> int:
    """Count the leading messages whose sizes match the declared ones."""
    if not rows:
        return 0
    is_headed, _, _, _, head_sizes, sizes, headers, payloads, _ = zip(*rows, strict=True)
    if any(is_headed):
        wrong = [
            int(size) != len(block) + len(payload) or int(head_size or 0) != len(block)
            for head_size, size, block, payload in zip(head_sizes, sizes, headers, payloads, strict=True)
        ]
    else:
        if list(map(int, sizes)) == list(map(len, payloads)):
            return len(rows)
        wrong = [int(size) != len(payload) for size, payload in zip(sizes, payloads, strict=True)]
    return wrong.index(True) if True in wrong else len(rows)


def _length(row: _Row) -> int:
    """Return the length on the wire of a message found by `_all`, blanks and line ends included."""
    is_headed, reply = row[0], row[3]
    return sum(map(len, row)) + len("MSG   \r\n\r\n") + bool(reply) + bool(is_headed)


def _row(text: str, line: re.Match[str]) -> tuple[_Row, int]:
    """Return the message that begins with `line`, and the position where it ends."""
    subject, sid, reply, head_size, size = line.groups()[:5] if line[1] else line.groups()[5:]
    body = line.end()
    end = body + int(size)
    payload_at = body + int(head_size or 0)
    row = ("", subject, sid, reply or "", "", size, text[body:payload_at], text[payload_at:end], "")
    return row, end + parser.CRLF_SIZE
