"""Find duplicate ids in bounded memory: hashes are spilled to a file, and compared at the end, one part at a time."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import Final

from service.runtime.errors import ServiceError

PARTS: Final = 1024
SPILLED: Final = 1024
"""Numbers of a part that are written to the file together: all parts take 8 MB at most."""
_BITS: Final = 2**64
_EACH: Final = 8


class Twice:
    """Takes 16 bytes of disk per id, and 8 MB. Ids with the same hash count as one: in 1 of 10**7 loads of 10**6 ids.

    Each method but `close` raises `ServiceError` if the temporary folder cannot be written.
    """

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(PARTS)]
        self._places = [array("Q") for _ in range(PARTS)]
        """Positions of each part's numbers in the file."""
        with _temporary():
            self._file = TemporaryFile()  # noqa: SIM115  closed by `close`
        self._end = 0

    def add(self, client_id: bytes, line: int) -> None:
        number = hash(client_id) % _BITS
        part = self._parts[number % PARTS]
        part.append(number)
        part.append(line)
        if len(part) == SPILLED:
            with _temporary():
                self._file.write(part.tobytes())
            self._places[number % PARTS].append(self._end)
            self._end += SPILLED * _EACH
            del part[:]

    def found(self) -> Iterator[tuple[int, int]]:
        """Yield each line whose id is a duplicate, with the earlier line that has it."""
        for part, places in zip(self._parts, self._places, strict=True):
            first: dict[int, int] = {}
            for place in places:
                with _temporary():
                    self._file.seek(place)
                    spilled = array("Q", self._file.read(SPILLED * _EACH))
                yield from _again(spilled, first)
            yield from _again(part, first)

    def close(self) -> None:
        with suppress(OSError):  # a full disk may fail again; the file is no longer needed
            self._file.close()


@contextmanager
def _temporary() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")  # noqa: S108  tempfile's own default
        raise ServiceError(
            f"temporary folder {folder} cannot be written ({error.strerror})",
            "set TMPDIR to a folder that has 16 free bytes for each row",
        ) from None


def _again(numbers: array[int], first: dict[int, int]) -> Iterator[tuple[int, int]]:
    pairs = iter(numbers)
    for number, line in zip(pairs, pairs, strict=True):
        before = first.setdefault(number, line)
        if before != line:
            yield line, before
