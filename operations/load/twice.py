"""Find ids that come twice, in bounded memory: hashes wait in a file, and are compared at the end, a part at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Final

PARTS: Final = 1024
SPILLED: Final = 1024
"""Numbers of a part that go to the file together: the parts have 8 MB at most."""
_BITS: Final = 2**64
_EACH: Final = 8


class Twice:
    """Takes 16 bytes of disk for each id, and 8 MB. Ids with one hash are taken for one: 1 in 10**7 loads of 10**6."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(PARTS)]
        self._places = [array("Q") for _ in range(PARTS)]
        """Where each part's numbers are in the file."""
        self._file = TemporaryFile()  # noqa: SIM115  closed by `close`
        self._end = 0

    def add(self, client_id: bytes, line: int) -> None:
        number = hash(client_id) % _BITS
        part = self._parts[number % PARTS]
        part.append(number)
        part.append(line)
        if len(part) == SPILLED:
            self._file.write(part.tobytes())
            self._places[number % PARTS].append(self._end)
            self._end += SPILLED * _EACH
            del part[:]

    def found(self) -> Iterator[tuple[int, int]]:
        """Yield each line whose id an earlier line has, and that line."""
        for part, places in zip(self._parts, self._places, strict=True):
            first: dict[int, int] = {}
            for place in places:
                self._file.seek(place)
                spilled = array("Q", self._file.read(SPILLED * _EACH))
                yield from _again(spilled, first)
            yield from _again(part, first)

    def close(self) -> None:
        self._file.close()


def _again(numbers: array[int], first: dict[int, int]) -> Iterator[tuple[int, int]]:
    pairs = iter(numbers)
    for number, line in zip(pairs, pairs, strict=True):
        before = first.setdefault(number, line)
        if before != line:
            yield line, before
