"""Where the rows come from: a file, a pipe, or an object in S3. It is read in blocks, never as a whole."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from operations.s3 import S3Object
from service.runtime.errors import ServiceError
from service.runtime.threads import in_thread

BLOCK: Final = 64 * 1024
"""Bytes: parsing the rows of one block takes about 10 ms, while DynamoDB is busy with others."""
PIPE: Final = "-"
REMEDY: Final = "pipe the rows into it, or name a file"


class Source(Protocol):
    name: str
    size: int | None
    """Bytes; None: a pipe, which cannot be read twice."""

    def blocks(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on. Raises `ServiceError` if they cannot be read."""


class File:
    """A file, which must not change from the check to the last row."""

    def __init__(self, path: Path) -> None:
        """Inspect the file. Raises `ServiceError` if it cannot be opened."""
        self.name = str(path)
        self._path = path
        with self._open() as file:
            self._as_it_was = _version(file)
        self.size: int | None = self._as_it_was[1]

    async def blocks(self, offset: int = 0) -> AsyncIterator[bytes]:
        with self._open() as file:
            self._check(file)
            file.seek(offset)
            while block := self._read(file):
                yield block
                await asyncio.sleep(0)  # a check awaits nothing else, and Ctrl-C needs an await
            self._check(file)

    def _read(self, file: BinaryIO) -> bytes:
        try:
            return file.read(BLOCK)
        except OSError as error:
            raise _unreadable(self.name, error, "see its disk, or copy it again") from None

    def _open(self) -> BinaryIO:
        try:
            if not self._path.is_file() and self._path.exists():
                raise ServiceError(f"{self._path} is not a file", "give a file, `-` for a pipe, or s3://BUCKET/KEY")
            return self._path.open("rb")
        except OSError as error:
            raise _unreadable(self.name, error, "correct the path") from None

    def _check(self, file: BinaryIO) -> None:
        if _version(file) != self._as_it_was:
            raise ServiceError(f"{self._path} was changed while it was read", "run it again")


def _version(file: BinaryIO) -> tuple[int, int, int]:
    """Return what changes if a file is replaced or written to: inode, size, time."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


class Pipe:
    """Standard input."""

    name = "standard input"
    size: int | None = None

    async def blocks(self, offset: int = 0) -> AsyncIterator[bytes]:
        assert offset == 0, "a pipe is read from its start"  # noqa: S101
        try:
            while block := await in_thread(lambda: os.read(sys.stdin.fileno(), BLOCK), self.name):
                yield block
        except OSError as error:
            raise _unreadable(self.name, error, REMEDY) from None


class Remote:
    """One version of an object in S3, which must not be replaced while it is read."""

    def __init__(self, url: str) -> None:
        """Inspect the object. Raises `ServiceError` if it cannot be read."""
        self.name = url
        self._object = S3Object(url)
        self.size: int | None = self._object.size

    async def blocks(self, offset: int = 0) -> AsyncIterator[bytes]:
        reading = self._object.blocks(offset)
        while block := await in_thread(lambda: next(reading, b""), "s3"):
            yield block


def source_of(text: str) -> Source:
    """Return the source that the argument names. Raises `ServiceError` if it cannot be read."""
    if text.startswith("s3://"):
        return Remote(text)
    if text != PIPE:
        return File(Path(text))
    if sys.stdin is None:
        raise ServiceError("standard input is closed", REMEDY)
    if sys.stdin.isatty():
        raise ServiceError("standard input is a terminal", REMEDY)
    return Pipe()


def _unreadable(name: str, error: OSError, remedy: str) -> ServiceError:
    return ServiceError(f"{name} cannot be read ({error.strerror})", remedy)
