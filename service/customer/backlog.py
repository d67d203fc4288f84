"""What the archive has still to take, for CloudWatch: this role is always there, the archive's tasks are not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError

from service.customer.contract import ARCHIVE_CONSUMER, STREAM
from service.runtime.emf import Figure
from service.runtime.jetstream import backlog
from service.runtime.logs import Repeated
from service.runtime.nats_client import NatsClient

log: Final = structlog.get_logger("service.backlog")
_unreadable: Final = Repeated(log, "the archive's backlog is not readable")

POLL_S: Final = 15.0
TIMEOUT_S: Final = 5.0

UNITS: Final = {"ArchiveBacklog": "Count", "ArchiveUnconfirmed": "Count"}
"""The CloudWatch metrics of a deployment with an archive, and their units."""


class Backlog:
    """Reads the archive's consumer, where there is one. What cannot be read is no figure: an alarm sees it missing."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._figures: Mapping[str, Figure] = {}

    def figures(self) -> Mapping[str, Figure]:
        return self._figures

    async def run(self) -> None:
        while True:
            self._figures = await self._read()
            await asyncio.sleep(POLL_S)

    async def _read(self) -> Mapping[str, Figure]:
        """`ArchiveBacklog` counts what a task holds too, dead or alive.

        `ArchiveUnconfirmed`: messages that the stream discarded while one before them was not acknowledged. They may
        be lost to the archive, or were acknowledged out of turn.
        """
        context = self._nc.jetstream(timeout=TIMEOUT_S)
        try:
            state = (await context.stream_info(STREAM)).state
            info = await context.consumer_info(STREAM, ARCHIVE_CONSUMER)
            confirmed = info.ack_floor.stream_seq if info.ack_floor else 0
            return {
                "ArchiveBacklog": (backlog(info), UNITS["ArchiveBacklog"]),
                "ArchiveUnconfirmed": (max(0, state.first_seq - 1 - confirmed), UNITS["ArchiveUnconfirmed"]),
            }
        except NotFoundError:
            return {}
        except (nats.errors.Error, APIError) as error:
            log.debug("the archive's backlog cannot be read", error=str(error) or type(error).__name__)
        except Exception as error:  # an answer that is none: its last figure must not stay for ever
            _unreadable.warning("", error=f"{type(error).__name__}: {error}")
        return {}
