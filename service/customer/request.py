"""A request and its one reply."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from service.customer.errors import RequestError
from service.runtime.discovery import is_inbox
from service.runtime.nats_client import NatsClient, header_block
from service.runtime.tracing import NoTracing, Tracing

log: Final = structlog.get_logger("service.micro")

OK: Final = "OK"
REPLY_LOST: Final = "REPLY_LOST"


class Request:
    """One request, in flight until `respond` or `refuse` is called, once. `done(request, outcome, error)` follows."""

    __slots__ = ("_answered", "_done", "_msg", "_nc", "_tracing", "received_ns", "reply_lost", "span")

    def __init__(
        self, nc: NatsClient, msg: Msg, tracing: NoTracing | Tracing, done: Callable[[Request, str, str], None]
    ) -> None:
        self.received_ns = time.perf_counter_ns()
        self.reply_lost = False
        self.span = tracing.begin(msg.subject, msg.headers)
        self._nc = nc
        self._msg = msg
        self._tracing = tracing
        self._done = done
        self._answered = False

    @property
    def data(self) -> bytes:
        return self._msg.data

    @property
    def context(self) -> Mapping[str, str] | None:
        """The headers that carry this request's span on; None when requests are not traced."""
        return self._tracing.context(self.span)  # type: ignore[arg-type]  # the span is of that tracing

    async def respond(self, payload: bytes) -> bool:
        """Answer. False when the reply could not be handed to the connection; never raises for that."""
        if self._answered:
            return False
        self._answered = True
        sent = False
        try:
            sent = self._post(payload)
        finally:
            self._done(self, OK if sent else REPLY_LOST, "")
        return sent

    async def refuse(self, error: RequestError) -> None:
        """Answer with an error: its code and description as headers, its body as payload."""
        if self._answered:
            return
        self._answered = True
        try:
            self._post(error.body, _error_headers(error.code, error.description))
        finally:
            self._done(self, error.description, f"{error.code}:{error.description}")

    def _post(self, payload: bytes, headers: bytes = b"") -> bool:
        """Hand a reply to the connection, which writes those of one turn of the loop at once."""
        reply = self._msg.reply
        if not is_inbox(reply):
            return False
        try:
            self._nc.post(reply, payload, headers=headers)
        except Exception as error:  # nats-py's own, or its transport's
            self.reply_lost = True
            log.debug("reply lost", reply=reply, error=str(error))
            return False
        return True


@lru_cache(maxsize=64)
def _error_headers(code: str, description: str) -> bytes:
    return header_block({ERROR_CODE_HEADER: code, ERROR_HEADER: description})
