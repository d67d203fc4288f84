"""The endpoint `devices.get`: a device's presence, and its last reading."""

from __future__ import annotations

from typing import Final

import orjson
import structlog

from service.contracts import devices as contract
from service.contracts import devices_schemas as schemas
from service.devices.endpoints import records
from service.devices.endpoints.records import Presence, device_of
from service.devices.query import row
from service.devices.query.row import Reading
from service.devices.query.table import Readings
from service.requests.answering import Answering
from service.requests.decode import decode_object
from service.requests.errors import NotFound
from service.requests.failures import Failures
from service.requests.micro import Endpoint

_failures: Final = Failures(structlog.get_logger("service.devices"), "look-up failed")


class Get:
    """Answers requests about one device. Without a record the answer is 404, even if it has readings."""

    def __init__(self, presence: Presence, readings: Readings) -> None:
        self.endpoint = Endpoint(
            name=contract.GET_NAME,
            subject=contract.GET_SUBJECT,
            handler=Answering(decode, self._answer),
            description="A device's state, since when, and its last reading.",
            request_schema=schemas.GET_REQUEST_SCHEMA,
            response_schema=schemas.GET_RESPONSE_SCHEMA,
        )
        self._presence = presence
        self._readings = readings

    async def _answer(self, device: str) -> str:
        record = await self._presence.get(device)
        if record is None:
            raise NotFound("no such device")
        reading = await self._last(device)
        last = {} if reading is None else {"last": row.shown(reading)}
        return orjson.dumps({**records.shown(record), **last}).decode()

    async def _last(self, device: str) -> Reading | None:
        try:
            return await self._readings.last(device)
        except Exception as error:
            raise _failures.refusal(error, device=device) from error


def decode(payload: str) -> str:
    """Return the device that a request asks for. Raises `BadRequest`."""
    return device_of(decode_object(payload), "device")
