"""The interface of a role, one of the image's jobs. `process.run` calls its methods in the order listed here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric

from service.runtime.telemetry.emf import Figures


class Skipped(Exception):
    """The need cannot be checked now. `--check` shows the message, if there is one."""


@dataclass(frozen=True)
class Need:
    """Something that must exist before a role can start."""

    name: str
    look: Callable[[], Awaitable[str | None]]
    """Check or open it; return a remark for `--check`, or None. Raise `ServiceError` if missing, or `Skipped`."""


class Role(Protocol):
    """Its constructor takes settings and a `Stop`, and does no I/O. Its attribute `SETTINGS` is its settings class."""

    def needs(self) -> Sequence[Need]:
        """Return what must exist, in the order in which to open it. `close` is called even if a need fails."""
        ...

    async def start(self) -> None:
        """Start taking work. Raise `ServiceError` if that fails."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Stop taking work and finish what was taken. Raise `ServiceError` if it is not done within `timeout_s`."""
        ...

    async def close(self) -> None:
        """Close everything that was opened, in reverse order."""
        ...

    async def problems(self) -> Mapping[str, str]:
        """Return part -> why it is not ready; empty if the role is ready."""
        ...

    async def remarks(self) -> Mapping[str, str]:
        """Return part -> what an operator should know even if the role is ready; may be empty."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """Return the role's Prometheus metrics, at each scrape."""
        ...

    def figures(self) -> Figures | None:
        """Return what goes to CloudWatch each minute from start to `close`, if logs are JSON; None: nothing."""
        ...
