"""What a role is: one job of the image. `process.run` calls its methods, in the order in which they stand here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric

from service.runtime.emf import Figures


class Skipped(Exception):
    """A need that cannot be looked at now. Its message, if it has one, is shown by `--check`."""


@dataclass(frozen=True)
class Need:
    """Something that must be there before a role can start."""

    name: str
    look: Callable[[], Awaitable[str | None]]
    """Returns a remark for `--check`, or None. Raises `ServiceError` when it is missing, or `Skipped`."""


class Role(Protocol):
    """Made of its settings and a `Stop`, without I/O. Its class has `SETTINGS`, the class of its settings."""

    def needs(self) -> Sequence[Need]:
        """What must be there, in the order in which it is opened. `close` is called however far this came."""
        ...

    async def start(self) -> None:
        """Begin to take work. Raises `ServiceError`."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Take no more work and finish what was taken. Raises `ServiceError` for what was not finished in time."""
        ...

    async def close(self) -> None:
        """Close whatever was opened, in reverse order."""
        ...

    async def problems(self) -> Mapping[str, str]:
        """What is not ready, by name, and why. Empty: ready."""
        ...

    async def remarks(self) -> Mapping[str, str]:
        """What to know of a role that is ready, by name. Empty: nothing."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """The role's Prometheus metrics, read when they are scraped."""
        ...

    def figures(self) -> Figures | None:
        """What goes to CloudWatch each minute, from the start until `close`, where logs are JSON; None: nothing."""
        ...
