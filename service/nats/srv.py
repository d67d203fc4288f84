"""`$SRV` for a role: nats-py's service, which answers to inboxes alone.

A role may publish where a requester must not, and must not be made to do it in its name: to a stream and a bucket, to
other programs' subjects, to the inboxes in which the roles' own messages are acknowledged (docs/adr/0002-micro.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.micro.service import Service

log: Final = structlog.get_logger("service.discovery")

OWN: Final = ("_INBOX_service.", "_INBOX_archive.", "_INBOX_queue.")
"""The inboxes of each role, whichever is asked."""


def is_inbox(subject: str) -> bool:
    """Whether a reply may go there: an inbox, as clients (`_INBOX`) and servers (`_R_`) make them, and no role's."""
    return subject.startswith("_") and not subject.startswith(OWN)


_inboxes: Final = re.compile(rf"(?:(?!{'|'.join(map(re.escape, OWN))})_[!-~]*\n)*").fullmatch


def are_inboxes(subjects: Sequence[str]) -> bool:
    """Whether each is an inbox, and in ASCII: one search over all is a fraction of the work."""
    return _inboxes("\n".join(subjects) + "\n") is not None


class Discovery(Service):
    """PING, INFO and STATS, each plain, by name and by id."""

    async def start(self) -> None:
        """Answer them, on whichever connection. `confirm` shows when the server knows of it."""
        try:
            await super().start()
        except nats.errors.Error as error:  # the connection is lost; the next one has the subscriptions
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
