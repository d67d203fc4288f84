"""Send many requests to JetStream at a time, without a task or a timer for each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import nats.errors
import orjson

from service.nats.client import NatsClient
from service.nats.parser import Read, raw

ANSWER_S: Final = 5.0
_STATUS: Final = re.compile(rb"NATS/1\.0 (\d+)").match
GONE: Final = 404
NO_RESPONDERS: Final = 503
END_OF_BATCH: Final = 204


class Unanswered(Exception):
    """NATS cannot be reached, or did not answer in time. Ask again."""


class Reply(NamedTuple):
    status: int
    """0 for a message."""
    headers: bytes
    data: bytes


class Request(NamedTuple):
    subject: str
    payload: bytes
    headers: bytes = b""


class Asker:
    """Call `start` first. Each request raises `Unanswered` if there is no answer within `ANSWER_S` seconds."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._inbox = ""
        self._number = 0
        self._waiting: dict[bytes, tuple[list[Reply], asyncio.Future[None], bool]] = {}
        """Reply subject -> replies so far, the future that waits for them, and whether several replies come."""
        nc.on_lost.append(self._give_up)

    async def start(self) -> None:
        self._inbox = self._nc.new_inbox()
        self._nc.deliver(await self._nc.subscribe(f"{self._inbox}.*"), self._on_replies)

    async def each(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the reply to each request, in order."""
        return [replies[0] for replies in await self._ask(requests, several=False)]

    async def one(self, request: Request) -> Reply:
        """Return the reply to a request."""
        return (await self.each([request]))[0]

    async def all(self, request: Request) -> list[Reply]:
        """Return the messages of a batched direct get. https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md"""
        replies = (await self._ask([request], several=True))[0]
        if (last := replies[-1]).status not in {GONE, END_OF_BATCH}:
            raise Unanswered(f"{request.subject} answered {last.status or 'without an end'}")
        return replies[:-1]

    async def _ask(self, requests: Sequence[Request], *, several: bool) -> list[list[Reply]]:
        if not self._nc.is_connected:
            raise Unanswered("not connected to NATS")
        loop = asyncio.get_running_loop()
        answers: list[tuple[list[Reply], asyncio.Future[None], bool]] = []
        inboxes: list[bytes] = []
        try:
            for request in requests:
                self._number += 1
                inbox = f"{self._inbox}.{self._number}"
                answers.append(([], loop.create_future(), several))
                inboxes.append(inbox.encode())
                self._waiting[inboxes[-1]] = answers[-1]
                self._nc.post(request.subject, request.payload, reply=inbox, headers=request.headers)
            async with asyncio.timeout(ANSWER_S):
                for _, done, _ in answers:
                    await done
        except nats.errors.Error as error:
            raise Unanswered(str(error) or type(error).__name__) from None
        except TimeoutError:
            raise Unanswered("NATS does not answer in time") from None
        finally:
            for inbox_ in inboxes:
                self._waiting.pop(inbox_, None)
        if not all(replies for replies, _, _ in answers):
            raise Unanswered("the connection to NATS was lost")
        if any(replies[-1].status == NO_RESPONDERS for replies, _, _ in answers):
            raise Unanswered("JetStream does not answer")
        return [replies for replies, _, _ in answers]

    def _give_up(self) -> None:
        for replies, done, _ in self._waiting.values():
            replies.clear()
            if not done.done():
                done.set_result(None)

    def _on_replies(self, read: Read) -> None:
        for subject, _, data, headers in raw(read):
            if waiting := self._waiting.get(subject):
                replies, done, several = waiting
                status = _STATUS(headers)
                replies.append(Reply(int(status[1]) if status else 0, headers, data))
                if (not several or status) and not done.done():
                    done.set_result(None)


def failure(reply: Reply) -> tuple[int, str]:
    """Return the code and the text of the error in an answer of JetStream's API; 0 if there is no error."""
    error = orjson.loads(reply.data).get("error") or {}
    return int(error.get("err_code") or error.get("code") or 0), str(error.get("description", ""))
