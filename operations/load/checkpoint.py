"""The progress of a load, in a file beside its source: written once a second, and removed at the end."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from operations.load.read import Mark
from service.runtime.errors import ServiceError

VERSION: Final = 1
BEGIN: Final = "remove it to begin again, or give another --checkpoint"


@dataclass(frozen=True)
class Job:
    """What is loaded, and into which table: a checkpoint of another job is refused."""

    table: str
    table_id: str
    """Id of this very table: a table deleted and created again has another one. Empty: unknown."""
    key: str
    balance: str
    replace: bool
    content: str
    """Digest of the source; empty for a pipe."""


@dataclass(frozen=True)
class Done:
    """All rows before `mark` are in the table, or were refused."""

    mark: Mark
    written: int = 0
    there: int = 0
    refused: int = 0


class Checkpoint:
    def __init__(self, path: Path | None, job: Job) -> None:
        """`path`: None for a load that cannot be resumed."""
        self._path = path
        self._job = job

    def read(self) -> Done | None:
        """Return the load's progress; None if it never began. Raises `ServiceError` for another load's checkpoint."""
        if self._path is None:
            return None
        try:
            told = orjson.loads(self._path.read_bytes())
            version, job = told.pop("version"), Job(**told.pop("job"))
            done = Done(Mark(**told.pop("mark")), **told)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ServiceError(f"checkpoint {self._path} cannot be read ({error.strerror})", BEGIN) from None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            raise ServiceError(f"{self._path} is no checkpoint of this program", BEGIN) from None
        if version != VERSION:
            raise ServiceError(f"checkpoint {self._path} was written by another version of this program", BEGIN)
        if job != self._job:
            raise ServiceError(f"checkpoint {self._path} belongs to another load: {_difference(job, self._job)}", BEGIN)
        return done

    def write(self, done: Done) -> None:
        """Write the checkpoint atomically. Raises `ServiceError`."""
        if self._path is None:
            return
        told: dict[str, Any] = {"version": VERSION, "job": asdict(self._job), **asdict(done)}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")  # another load may write one too
        try:
            beside.write_bytes(orjson.dumps(told))
            beside.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise ServiceError(
                f"checkpoint {self._path} cannot be written ({error.strerror})", "give a --checkpoint that can be"
            ) from None

    def remove(self) -> None:
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _difference(theirs: Job, ours: Job) -> str:
    if theirs.content != ours.content:
        return "the rows are not the same ones, or were changed"
    if (theirs.table, theirs.table_id) != (ours.table, ours.table_id):
        again = ", which has been made again" if theirs.table == ours.table else ""
        return f"into table {theirs.table}{again}"
    if theirs.replace != ours.replace:
        return f"with{'' if theirs.replace else 'out'} --replace"
    return f"with the attributes {theirs.key} and {theirs.balance}"
