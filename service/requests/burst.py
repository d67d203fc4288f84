"""Requests to one endpoint that arrived in one read, and their replies.

They are handled as lists, with no object and no call per request, except for unusual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import nats.errors
import structlog
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from service.nats.client import header_block, sizes_of
from service.nats.srv import is_inbox
from service.requests.errors import InternalError, RequestError
from service.runtime.logs import Repeated

log: Final = structlog.get_logger("service.micro")

OK: Final = "OK"
REPLY_LOST: Final = "REPLY_LOST"
_request_failed: Final = Repeated(log, "request failed")
_reply_failed: Final = Repeated(log, "reply failed")

Item = TypeVar("Item")
Result = TypeVar("Result")


class Done(Protocol):
    """Record the outcome of `count` requests of a burst."""

    def __call__(self, burst: Burst, count: int, outcome: str, /, *, error: str = "", lost: int = 0) -> None: ...


class Burst:
    """Requests not answered yet, each identified by its reply subject.

    A request that is answered, or taken into another burst, leaves this one: it is answered only once, and an error
    handler can refuse the rest.
    """

    __slots__ = ("_done", "_failed", "_post", "context", "received_ns", "replies", "span")

    def __init__(
        self,
        replies: Sequence[str],
        received_ns: int,
        post: Callable[[str, Sequence[int]], None],
        done: Done,
        span: Any = None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        """`post(frames, sizes)` passes replies to the connection; `done` is called with their outcome."""
        self.replies = replies
        self.received_ns = received_ns
        self.span = span
        self.context = context
        """Headers that propagate the request's span; None if requests are not traced."""
        self._post = post
        self._done = done
        self._failed = _request_failed

    def respond(self, payloads: Sequence[str]) -> bool:
        """Answer each with its payload. Return False unless the connection took every reply."""
        if not self.replies:
            return False
        sizes = sizes_of(payloads)
        frames = [
            f"PUB {to} {size}\r\n{text}\r\n" for to, size, text in zip(self.replies, sizes, payloads, strict=True)
        ]
        try:
            sent = self._send("".join(frames), sizes)
        except nats.errors.MaxPayloadError as error:
            if len(sizes) > 1:  # one reply that is too large must not lose the others
                each = [one.respond([text]) for one, text in zip(self.singles(), payloads, strict=True)]
                return all(each)
            self.fail(error)
            return False
        count = self._release()
        self._done(self, count, OK if sent else REPLY_LOST, lost=0 if sent else count)
        return sent

    def refuse(self, error: RequestError) -> None:
        """Answer all with an error: code and description as headers, body as payload."""
        if not self.replies:
            return
        headers, body = _error_headers(error.code, error.description), error.body.decode()
        size = len(error.body)
        rest = f" {len(headers)} {len(headers) + size}\r\n{headers}{body}\r\n"
        frames = [f"HPUB {to}{rest}" for to in self.replies if is_inbox(to)]
        count = self._release()
        lost = len(frames) if frames and not self._send("".join(frames), [size] * len(frames)) else 0
        self._done(self, count, error.description, error=f"{error.code}:{error.description}", lost=lost)

    def fail(self, error: Exception) -> None:
        """Refuse all. A `RequestError` is the reply; any other error is logged, and the reply is "internal error"."""
        if isinstance(error, RequestError):
            self.refuse(error)
        else:
            self._failed.error(type(error).__name__, exc_info=error)
            self.refuse(InternalError("internal error"))

    def attempt(self, work: Callable[..., None], *args: Any) -> None:
        """Call `work(self, *args)`; if it raises, refuse the requests that are left."""
        try:
            work(self, *args)
        except Exception as error:
            self.fail(error)

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return `work(item)` for each request's item. Refuse a request whose work raises; the others stay."""
        kept, results, odd = list[str](), list[Result](), list[tuple[str, Exception]]()
        for reply, item in zip(self.replies, items, strict=True):
            try:
                results.append(work(item))
                kept.append(reply)
            except Exception as error:
                odd.append((reply, error))
        self.replies = kept
        for reply, why in odd:
            self._like([reply]).fail(why)
        return results

    def take(self, numbers: Sequence[int]) -> Burst:
        """Move the requests at these positions into a new burst."""
        replies, taken = self.replies, set(numbers)
        self.replies = [reply for number, reply in enumerate(replies) if number not in taken]
        return self._like([replies[number] for number in numbers])

    def singles(self) -> Iterator[Burst]:
        """Yield each request as its own burst."""
        while self.replies:
            reply, self.replies = self.replies[0], self.replies[1:]
            yield self._like([reply])

    def looked_up(self, replies: Sequence[str]) -> Burst:
        """Return a burst of requests whose look-up is done: a later failure is logged as "reply failed"."""
        burst = self._like(replies)
        burst._failed = _reply_failed
        return burst

    def _like(self, replies: Sequence[str]) -> Burst:
        burst = Burst(replies, self.received_ns, self._post, self._done, self.span, self.context)
        burst._failed = self._failed
        return burst

    def _release(self) -> int:
        count, self.replies = len(self.replies), ()
        return count

    def _send(self, frames: str, sizes: Sequence[int]) -> bool:
        try:
            self._post(frames, sizes)
        except Exception as error:  # raised by nats-py or its transport
            if isinstance(error, nats.errors.MaxPayloadError):
                raise
            log.debug("replies lost", count=len(sizes), error=str(error))
            return False
        return True


@lru_cache(maxsize=64)
def _error_headers(code: str, description: str) -> str:
    return header_block({ERROR_CODE_HEADER: code, ERROR_HEADER: description}).decode()
