"""Call SQS through boto3, each call in its own thread and within a time that the caller can rely on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import boto3
from botocore.config import Config

from service.runtime.aws import aws_session
from service.runtime.threads import in_thread
from service.sources.sqs.answers import FAILURES, Silent, check, garbled
from service.sources.sqs.region import place_of

POLL_S: Final = 2
"""Longest wait of one receive call, in seconds. A stop waits for the calls in flight."""
CONNECT_S: Final = 3
RECEIVES: Final = 32
ANSWERS: Final = 16
"""Calls in flight. Receives have their own limit, so that those waiting for messages do not block answers."""


@dataclass(frozen=True, slots=True)
class Timing:
    answer_s: float = 5
    """Seconds that SQS may take to answer, on top of the requested wait."""
    call_s: float = 10.0
    """Limit for a call and its retries, in seconds."""
    attempts: int = 3
    """Attempts of a call that may safely run twice."""


class Calls:
    """Calls the endpoint of the queue's URL, unless the AWS configuration names one. Run `open` first, in a thread.

    The region is that of the URL; without one, the AWS SDK's default region.
    """

    def __init__(self, url: str, timing: Timing) -> None:
        self._queue_url = url
        self._timing = timing
        self._once: Any = None
        self._again: Any = None
        self._receives = asyncio.Semaphore(RECEIVES)
        self._answers = asyncio.Semaphore(ANSWERS)
        self.left: set[asyncio.Future[Any]] = set()
        """Receives in flight whose caller has given up or was cancelled."""

    def open(self) -> None:
        place = place_of(self._queue_url)
        core = aws_session(place.region)
        core.get_credentials()  # before any client, so that STS is called in the session's region, not in a client's
        session = boto3.Session(botocore_session=core)
        endpoint_url = None if _is_configured(session) else place.endpoint_url
        answer_s, attempts = self._timing.answer_s, self._timing.attempts
        make = functools.partial(_client, session, place.region, endpoint_url)
        self._once = self._once or make(attempts=1, read_s=POLL_S + answer_s, size=RECEIVES + ANSWERS)
        self._again = self._again or make(attempts=attempts, read_s=answer_s, size=ANSWERS)

    async def receive(self, within_s: float, late: Callable[[Any], None], **request: Any) -> Any:
        """Return SQS's answer, or None when `RECEIVES` other calls left no slot free for `within_s` seconds.

        If the caller is cancelled, or SQS is silent for too long (raises `Silent`), the call goes on in its thread, and
        `late` gets its answer.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._receives.acquire()
        except TimeoutError:
            return None
        call = self._begin(self._receives, functools.partial(self._once.receive_message, **request))
        try:
            return await _within(call, request["WaitTimeSeconds"] + self._timing.answer_s)
        except (Silent, asyncio.CancelledError):
            self._leave(call, late)
            raise

    def is_busy(self) -> bool:
        """Return whether a receive would have to wait for a slot."""
        return self._receives.locked()

    async def answer(self, name: str, *, again: bool = True, **request: Any) -> Any:
        """Call `name` within `call_s` seconds. `again`: retry on failure, for calls that may safely run twice."""
        await self._answers.acquire()
        client = self._again if again else self._once
        call = self._begin(self._answers, functools.partial(getattr(client, name), **request))
        return await _within(call, self._timing.call_s)

    def _begin(self, slots: asyncio.Semaphore, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Start a call. It keeps its slot until its thread ends, even if its caller has given up."""
        call = in_thread(functools.partial(_parsed, work), "sqs")
        call.add_done_callback(lambda _: slots.release())
        return call

    def _leave(self, call: asyncio.Future[Any], late: Callable[[Any], None]) -> None:
        def ended(_: asyncio.Future[Any]) -> None:
            self.left.discard(call)
            if call.exception() is None:
                late(call.result())

        self.left.add(call)
        call.add_done_callback(ended)


def _parsed(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except FAILURES:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # botocore's parser, on a garbled answer
        raise garbled(error) from error


async def _within(call: asyncio.Future[Any], seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(call)
    except TimeoutError:
        raise Silent(within_s=seconds) from None


def _is_configured(session: boto3.Session) -> bool:
    """Return whether environment or profile set SQS's endpoint: only then is it the same in two regions."""
    clients: list[Any] = [session.client("sqs", region_name=region) for region in ("us-east-1", "us-west-2")]
    return len({client.meta.endpoint_url for client in clients}) == 1


def _client(
    session: boto3.Session, region: str | None, endpoint_url: str | None, *, attempts: int, read_s: float, size: int
) -> Any:
    config = Config(
        max_pool_connections=size,
        connect_timeout=CONNECT_S,
        read_timeout=read_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    client: Any = session.client("sqs", region_name=region, endpoint_url=endpoint_url, config=config)
    client.meta.events.register("before-parse.sqs", check)
    return client
