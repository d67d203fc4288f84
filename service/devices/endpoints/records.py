"""What both endpoints know of devices: their ids, and the records of their presence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from service.contracts import devices as contract
from service.requests.errors import BadRequest

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


def device_of(body: dict[str, Any], name: str) -> str:
    """Return the id of a device in a request's field. Raises `BadRequest`."""
    device = body.get(name)
    if type(device) is not str or not _device(device):
        raise BadRequest(f"{name} must be a device's id: 1 to 36 of A-Z, a-z, 0-9, _ and -")
    return device


def shown(record: Record) -> dict[str, Any]:
    return {"device": record.device, "state": record.state, "since": record.since}
