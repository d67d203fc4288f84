"""Answer each request in a task of its own, and what both endpoints know of devices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from service.contracts import devices as contract
from service.requests.burst import Burst
from service.requests.errors import BadRequest

Asked = TypeVar("Asked")

_device: Final = re.compile(contract.DEVICE_ID).fullmatch


class Record(Protocol):
    """What is known of a device's presence."""

    @property
    def device(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float:
        """Seconds since 1970."""
        ...


class Presence(Protocol):
    async def get(self, device: str) -> Record | None:
        """Return the device's record; None if it has none. Raises `Unavailable`."""
        ...

    async def list(self, state: str, after: str, limit: int) -> Sequence[Record]:
        """Return up to `limit` records behind `after`, in the order of their ids; in any state if `state` is ''.

        Raises `Unavailable`.
        """
        ...


class Answering(Generic[Asked]):
    """A handler of requests, each of which takes a while to answer."""

    def __init__(self, decode: Callable[[str], Asked], answer: Callable[[Asked], Awaitable[str]]) -> None:
        """Both may raise a `RequestError` to reply with; any other error is logged as a fault of ours."""
        self._decode = decode
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, burst: Burst, payloads: Sequence[str]) -> None:
        asked = burst.each(self._decode, payloads)
        for request, what in zip(burst.singles(), asked, strict=True):
            task = asyncio.create_task(self._respond(request, what))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _respond(self, request: Burst, asked: Asked) -> None:
        try:
            text = await self._answer(asked)
        except Exception as error:
            request.fail(error)
        else:
            request.respond([text])


def device_of(body: dict[str, Any], name: str) -> str:
    """Return the id of a device in a request's field. Raises `BadRequest`."""
    device = body.get(name)
    if type(device) is not str or not _device(device):
        raise BadRequest(f"{name} must be a device's id: 1 to 36 of A-Z, a-z, 0-9, _ and -")
    return device


def shown(record: Record) -> dict[str, Any]:
    return {"device": record.device, "state": record.state, "since": record.since}
