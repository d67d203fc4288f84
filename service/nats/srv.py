"""`$SRV` for a role: nats-py's service, restricted to answering inboxes.

A role may publish where a requester may not: to a stream and a bucket, to other programs' subjects, to the inboxes that
receive the roles' acknowledgements. A reply subject must not trick it into doing so (docs/adr/0002-micro.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.micro.service import Service

from service.contracts import archive, customer, devices, queue

log: Final = structlog.get_logger("service.discovery")

OWN: Final = tuple(f"{role.INBOX_PREFIX}." for role in (archive, customer, devices, queue))
"""Inbox prefixes of all roles: no role replies to any of them."""


def is_inbox(subject: str) -> bool:
    """Return whether a reply may go there: an inbox of a client (`_INBOX`) or server (`_R_`), but not a role's."""
    return subject.startswith("_") and not subject.startswith(OWN)


_inboxes: Final = re.compile(rf"(?:(?!{'|'.join(map(re.escape, OWN))})_[!-~]*\n)*").fullmatch


def are_inboxes(subjects: Sequence[str]) -> bool:
    """Return whether all are inboxes in ASCII. One search over all costs a fraction of a call for each."""
    return _inboxes("\n".join(subjects) + "\n") is not None


class Discovery(Service):
    """Answers PING, INFO and STATS, each for all services, by name and by id."""

    async def start(self) -> None:
        """Subscribe, now or with the next connection. After `confirm`, the server has the subscriptions."""
        try:
            await super().start()
        except nats.errors.Error as error:  # the connection is lost; a reconnect makes the subscriptions
            if self._client.is_closed:
                raise
            log.debug("no answer from NATS", error=str(error))

    async def _handle_ping_request(self, msg: Msg) -> None:
        if is_inbox(msg.reply):
            await super()._handle_ping_request(msg)

    async def _handle_info_request(self, msg: Msg) -> None:
        if is_inbox(msg.reply):
            await super()._handle_info_request(msg)

    async def _handle_stats_request(self, msg: Msg) -> None:
        if is_inbox(msg.reply):
            await super()._handle_stats_request(msg)
