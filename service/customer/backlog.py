"""Read the other roles' backlogs, for CloudWatch: tasks of this role always run, theirs may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any, Final

import nats.errors
import orjson
import structlog
from nats.js.errors import APIError, NotFoundError

from service.contracts.customer import FIGURES
from service.contracts.stream import ARCHIVE_CONSUMER, QUEUE_CONSUMER, QUEUE_DEAD_STREAM, STREAM
from service.nats import permissions
from service.nats.client import NatsClient
from service.runtime.logs import Repeated
from service.runtime.role import Skipped
from service.runtime.telemetry.emf import Figure

log: Final = structlog.get_logger("service.backlog")
_unreadable: Final = Repeated(log, "a consumer's backlog is not readable")

POLL_S: Final = 15.0
TIMEOUT_S: Final = 5.0
PERMISSIONS_S: Final = 300.0
"""Seconds until the permissions are read again: `create` may have granted more."""

UNITS: Final = {
    "ArchiveBacklog": "Count",
    "ArchiveUnconfirmed": "Count",
    "ArchiveOldest": "Seconds",
    "QueueBacklog": "Count",
    "QueueOldest": "Seconds",
    "QueueDeadLetters": "Count",
}
"""The CloudWatch metrics of a deployment with an archive or a queue, and their units."""

CONSUMERS: Final = {"Archive": ARCHIVE_CONSUMER, "Queue": QUEUE_CONSUMER}
"""Each role's consumer, by the prefix of its figures."""

FIGURES_LEFT_OUT: Final = "figures are left out; `python -m control_plane create` gives the permissions"

_INFO: Final = "$JS.API.STREAM.INFO."
_CONSUMER: Final = f"$JS.API.CONSUMER.INFO.{STREAM}."
_MESSAGE: Final = f"$JS.API.STREAM.MSG.GET.{STREAM}"
_UNTOLD: Final = {"publish": {"allow": [f"{_INFO}{STREAM}", f"{_CONSUMER}{ARCHIVE_CONSUMER}"]}}
"""Permissions assumed until the server reports them: those of the first version."""


class BacklogReader:
    """Reads the roles' consumers, where they exist. Omits a figure it cannot read: alarms see missing data.

    Sends only requests that its user's permissions allow: the server answers no others, and each would time out.
    """

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._read: dict[str, Mapping[str, float]] = {}
        self._permissions: Mapping[str, Any] = _UNTOLD
        self._lacking: list[str] = []
        self._asked_s = float("-inf")

    def figures(self) -> Mapping[str, Figure]:
        return {name: (value, UNITS[name]) for read in self._read.values() for name, value in read.items()}

    async def run(self) -> None:
        while True:
            await self._look_at_permissions()
            await asyncio.gather(
                *(self._keep(consumer, self._of(role, consumer)) for role, consumer in CONSUMERS.items()),
                self._keep(QUEUE_DEAD_STREAM, self._dead_letters()),
            )
            await asyncio.sleep(POLL_S)

    async def _look_at_permissions(self) -> None:
        if time.monotonic() - self._asked_s < PERMISSIONS_S:
            return
        self._asked_s = time.monotonic()
        try:
            self._permissions = await permissions.told(self._nc)
        except Skipped as skipped:
            log.debug("the permissions are not known", reason=str(skipped))
        before, self._lacking = self._lacking, [subject for subject in FIGURES if not self._may(subject)]
        if self._lacking and self._lacking != before:
            log.info(FIGURES_LEFT_OUT, subjects=self._lacking)

    def _may(self, subject: str) -> bool:
        return permissions.allows(self._permissions.get("publish"), subject)

    async def _keep(self, name: str, reading: Awaitable[Mapping[str, float]]) -> None:
        """Keep the figures read, or none if reading fails. A slow read does not delay the others."""
        figures: Mapping[str, float] = {}
        try:
            figures = await reading
        except NotFoundError:
            pass
        except (nats.errors.Error, APIError) as error:
            log.debug("a backlog cannot be read", of=name, error=str(error) or type(error).__name__)
        except Exception as error:  # an invalid answer: an old figure must not stay
            _unreadable.warning(name, of=name, error=f"{type(error).__name__}: {error}")
        self._read[name] = figures

    async def _of(self, role: str, consumer: str) -> Mapping[str, float]:
        """Return a consumer's figures.

        `...Backlog` includes messages that a task holds, dead or alive; `...Oldest` is the age of the oldest, in
        seconds. `...Unconfirmed` counts messages above the consumer's ack floor that the stream has discarded: the
        role lost them, or acknowledged them out of order.
        """
        if not self._may(f"{_CONSUMER}{consumer}"):
            return {}
        first = (await self._ask(f"{_INFO}{STREAM}"))["state"]["first_seq"]
        info = await self._ask(f"{_CONSUMER}{consumer}")
        floor, waits = info["ack_floor"]["stream_seq"], info["num_pending"] + info["num_ack_pending"]
        figures = {f"{role}Backlog": waits, f"{role}Unconfirmed": max(0, first - 1 - floor)}
        if self._may(_MESSAGE):
            try:
                oldest_s = await self._oldest_s(info) if waits else 0.0
            except (nats.errors.Error, APIError) as error:
                log.debug("the oldest message cannot be read", of=consumer, error=str(error) or type(error).__name__)
            except (AttributeError, LookupError, TypeError, ValueError) as error:  # costs only this figure
                _unreadable.warning(consumer, of=consumer, error=f"{type(error).__name__}: {error}")
            else:
                if oldest_s is not None:
                    figures[f"{role}Oldest"] = oldest_s
        return {name: value for name, value in figures.items() if name in UNITS}

    async def _oldest_s(self, info: Mapping[str, Any]) -> float | None:
        """Return the age in seconds, by the server's clock, of the first message that can still be delivered.

        None if unknown: an older server sends no time (`ts`), and while messages are held, the ack floor may be held
        by one that was given up after `max_deliver` deliveries.
        """
        config, first = info["config"], info["ack_floor"]["stream_seq"] + 1
        if not info["num_ack_pending"]:
            first = max(first, info["delivered"]["stream_seq"] + 1)
        elif config.get("max_deliver", -1) > 0:
            return None
        if "ts" not in info:
            return None
        now = datetime.fromisoformat(info["ts"])
        subjects = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        return max([await self._age_s(now, first, subject) for subject in subjects])

    async def _age_s(self, now: datetime, sequence: int, subject: str) -> float:
        """Return the age in seconds of the first message that the stream still has from `sequence` on; 0 if none."""
        try:
            asked = orjson.dumps({"seq": sequence, "next_by_subj": subject})
            message = (await self._ask(_MESSAGE, asked))["message"]
        except NotFoundError:
            return 0.0
        return max(0.0, (now - datetime.fromisoformat(message["time"])).total_seconds())

    async def _dead_letters(self) -> Mapping[str, float]:
        if not self._may(f"{_INFO}{QUEUE_DEAD_STREAM}"):
            return {}
        info = await self._ask(f"{_INFO}{QUEUE_DEAD_STREAM}")
        return {"QueueDeadLetters": int(info["state"]["messages"])}

    async def _ask(self, subject: str, request: bytes = b"") -> dict[str, Any]:
        """Return JetStream's raw answer, as nats-py omits its time (`ts`). Raise `APIError` if it is an error."""
        answer: dict[str, Any] = orjson.loads((await self._nc.request(subject, request, timeout=TIMEOUT_S)).data)
        if "error" in answer:
            raise APIError.from_error(answer["error"])
        return answer
