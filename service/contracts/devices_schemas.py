"""JSON Schemas of the requests to `devices.get` and `devices.list`, and of their responses."""

from typing import Final

from service.contracts.devices import DEVICE_ID
from service.contracts.requests import schema

STATES: Final = ("online", "leaving", "offline")
"""`leaving`: its will has arrived, and the delay that it names has not passed yet."""
PAGE_MAX: Final = 1000
PAGE_DEFAULT: Final = 100
"""Devices per page of the list."""

_DEVICE: Final = {"type": "string", "pattern": f"^{DEVICE_ID}$"}
_STATE: Final = {"type": "string", "enum": list(STATES)}
_SINCE: Final = {"type": "number", "description": "seconds since 1970"}
_KNOWN: Final = {"device": _DEVICE, "state": _STATE, "since": _SINCE}
_LAST: Final = {
    "type": "object",
    "description": "the newest reading by the device's own clock",
    "required": ["epoch", "temp", "rh", "entry_id"],
    "properties": {
        "epoch": {"type": "integer", "description": "seconds since 1970, by the device's clock"},
        "temp": {"type": "number"},
        "rh": {"type": "number"},
        "sensor": {"type": "string"},
        "facility": {"type": "string"},
        "received_ms": {"type": "integer", "description": "milliseconds since 1970, by the server's clock"},
        "clock_skew_s": {"type": "integer", "description": "by how much the device's clock is ahead, if that is a lot"},
        "clock": {"type": "string", "enum": ["none"], "description": "the device had no time: epoch is of its arrival"},
        "entry_id": {"type": "integer", "description": "of the content: two readings may share one"},
    },
}

GET_REQUEST_SCHEMA: Final = schema("device", device=_DEVICE)
GET_RESPONSE_SCHEMA: Final = schema(*_KNOWN, **_KNOWN, last=_LAST)
LIST_REQUEST_SCHEMA: Final = schema(
    state={**_STATE, "description": "devices in this state only"},
    after={**_DEVICE, "description": "the `after` of the page that came last"},
    limit={"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
)
LIST_RESPONSE_SCHEMA: Final = schema(
    "devices",
    devices={"type": "array", "items": {"type": "object", "required": list(_KNOWN), "properties": _KNOWN}},
    after={**_DEVICE, "description": "there may be more: ask for the page after this device"},
)
