"""What a person or a script sees of a load: progress, bad lines, and the result."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import typer

from service.runtime.errors import ServiceError

FIRST_S: Final = 2.0
"""A step that ends within this time shows no progress."""
EACH_S: Final = 1.0


@dataclass
class Progress:
    """Shows the progress of a step once a second, on standard error, if that is a terminal."""

    what: str
    size: int | None
    """Bytes; None: unknown."""
    shown: bool = field(default_factory=sys.stderr.isatty)
    begun_at: int = 0
    """Bytes that earlier runs completed."""
    _began_s: float = field(default_factory=time.monotonic)
    _next_s: float = FIRST_S
    _width: int = 0

    def show(self, offset: int, rows: int) -> None:
        seconds = time.monotonic() - self._began_s
        if not self.shown or seconds < self._next_s:
            return
        self._next_s = seconds + EACH_S
        line = f"{self.what}: {rows:,} rows, {rows / seconds:,.0f} rows/s"
        done = offset - self.begun_at
        if self.size and done:
            left_s = seconds * max(0, self.size - offset) / done
            line += f", {min(100, 100 * offset // self.size)}%, {duration(left_s)} left"
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def end(self) -> None:
        if self._width:
            print(file=sys.stderr)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


@contextmanager
def output() -> Iterator[None]:
    """Print to standard output. Raises `ServiceError` if its disk is full, or no program reads it any more."""
    try:
        yield
    except OSError as error:
        # Discard what is left in the buffer: it would fail again when the process ends.
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ServiceError(
            f"standard output cannot be written ({error.strerror})", "see its disk, or the program that reads it"
        ) from None


def _print(text: str) -> None:
    with output():
        print(text, flush=True)


class Report:
    """Prints each bad or refused line as it is found: they are not kept, because there may be millions."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.kept: Path | None = None
        """The checkpoint from which this load can be resumed, once there is one."""

    def line(self, line: int, column: str, reason: str) -> None:
        """Print a bad line. Raise `ServiceError` if that fails; so does `result`."""
        if self._as_json:
            _print(json.dumps({"line": line, "column": column, "reason": reason}, ensure_ascii=False))
        else:
            where = f"line {line}" if column == "line" else f"line {line}, {column}"
            _print(f"{where}: {reason}")

    def note(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr)

    def result(self, text: str, **told: float | str) -> None:
        _print(json.dumps(told, ensure_ascii=False) if self._as_json else text)

    def error(self, text: str) -> None:
        typer.secho(f"error: {text}", fg=typer.colors.RED, err=True)  # colour on a terminal only
