"""Calls of SQS through boto3, each in a thread of its own, and each with an end that its caller can rely on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

import boto3
from botocore.config import Config

from service.runtime.aws import aws_session
from service.runtime.threads import in_thread
from service.sources.sqs.answers import FAILURES, Silent, check, garbled
from service.sources.sqs.region import place_of

POLL_S: Final = 2
"""The longest that one call waits for a message. A stop waits for the calls that are there."""
ANSWER_S: Final = 5
"""For so long SQS may be silent, beside what it was told to wait."""
CALL_S: Final = 10.0
"""For a call that is made again."""
CONNECT_S: Final = 3
ATTEMPTS: Final = 3
RECEIVES: Final = 32
ANSWERS: Final = 16
"""Calls at a time. Those that wait for messages are not in the way of the others."""


class Calls:
    """To the endpoint of the queue's URL, unless the AWS configuration names one. `open` first, in a thread.

    Without a URL, and for one that does not tell its region, the region is the AWS SDK's.
    """

    def __init__(self, url: str) -> None:
        self._queue_url = url
        self._once: Any = None
        self._again: Any = None
        self._receives = asyncio.Semaphore(RECEIVES)
        self._answers = asyncio.Semaphore(ANSWERS)
        self.left: set[asyncio.Future[Any]] = set()
        """Receives that nobody waits for any more."""

    def open(self) -> None:
        place = place_of(self._queue_url)
        core = aws_session(place.region)
        core.get_credentials()  # found first, STS is asked in the session's region, not in that of the first client
        session = boto3.Session(botocore_session=core)
        endpoint_url = None if _is_configured(session) else place.endpoint_url
        make = functools.partial(_client, session, place.region, endpoint_url)
        self._once = self._once or make(attempts=1, read_s=POLL_S + ANSWER_S, size=RECEIVES + ANSWERS)
        self._again = self._again or make(attempts=ATTEMPTS, read_s=ANSWER_S, size=ANSWERS)

    async def receive(self, within_s: float, late: Callable[[Any], None], **request: Any) -> Any:
        """The answer; None when no call could be made within that time, because so many others wait.

        The call goes on when the caller is cancelled or gives up: `late` is then given what it brings.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._receives.acquire()
        except TimeoutError:
            return None
        call = self._begin(self._receives, functools.partial(self._once.receive_message, **request))
        try:
            return await _within(call, request["WaitTimeSeconds"] + ANSWER_S)
        except (Silent, asyncio.CancelledError):
            self._leave(call, late)
            raise

    def is_busy(self) -> bool:
        """Whether a receive would wait for another one's end."""
        return self._receives.locked()

    async def answer(self, name: str, *, again: bool = True, **request: Any) -> Any:
        """`again`: what may be done twice is asked for again when it fails."""
        await self._answers.acquire()
        client = self._again if again else self._once
        return await _within(self._begin(self._answers, functools.partial(getattr(client, name), **request)), CALL_S)

    def _begin(self, slots: asyncio.Semaphore, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """A silent call keeps its slot until it ends, whether or not anyone waits for it."""
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
    """Whether the environment or the profile names SQS's endpoint: it is then the same in each region."""
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
