"""Replies to requests that share an answer: each gets it, whatever became of the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from service.customer.errors import RequestError
from service.customer.request import Request
from service.runtime.logs import Repeated

_failed: Final = Repeated(structlog.get_logger("service.customer"), "delivery failed")

Sent = Callable[[str, bytes, Request], None]
"""Called with a client's id, the reply and the request that was given it."""


async def reply(
    client_id: str, answer: bytes | RequestError, requests: Sequence[Request], sent: Sent | None = None
) -> None:
    """Give each request its answer. What fails is logged: the others are not to wait for ever."""
    for request in requests:
        try:
            if isinstance(answer, RequestError):
                await request.refuse(answer)
            elif await request.respond(answer) and sent:
                sent(client_id, answer, request)
        except Exception as error:
            _failed.error(type(error).__name__, client_id=client_id, exc_info=error)
