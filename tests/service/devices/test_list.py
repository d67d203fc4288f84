"""`devices.list`: pages of devices, in order, over a real nats-server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from service.contracts import devices as contract
from service.contracts import devices_schemas as schemas
from service.devices.endpoints.list import List, decode, encode
from tests.support.devices.endpoints import UNAVAILABLE, Presence, Record, answering, ask
from tests.support.schema import ecma, is_taken

REQUEST = jsonschema.Draft202012Validator(ecma(schemas.LIST_REQUEST_SCHEMA))
RESPONSE = jsonschema.Draft202012Validator(schemas.LIST_RESPONSE_SCHEMA)


async def page(client: Client, **body: Any) -> tuple[list[str], str]:
    """Return the page's devices, and what asks for the next page."""
    code, reply = await ask(client, contract.LIST_SUBJECT, body)
    assert code == "OK"
    RESPONSE.validate(reply)
    return [each["device"] for each in reply["devices"]], reply.get("after", "")


async def test_pages_of_devices_in_the_order_of_their_ids(tmp_path: Path) -> None:
    states = ("online", "offline", "leaving", "offline", "offline")
    presence = Presence([Record(f"d{5 - number}", state) for number, state in enumerate(states)])
    async with answering(tmp_path, List(presence).endpoint) as client:
        assert await page(client) == (["d1", "d2", "d3", "d4", "d5"], "")
        assert await page(client, limit=2) == (["d1", "d2"], "d2")
        assert await page(client, limit=2, after="d2") == (["d3", "d4"], "d4")
        assert await page(client, limit=1.0, after="d4") == (["d5"], ""), "no empty page follows the last one"
        assert await page(client, state="offline", limit=2) == (["d1", "d2"], "d2")
        assert await page(client, state="offline", after="d2") == (["d4"], "")
        assert await page(client, state="leaving") == (["d3"], "")
        _, reply = await ask(client, contract.LIST_SUBJECT, {"after": "d4"})
        assert reply == {"devices": [{"device": "d5", "state": "online", "since": 1_700_000_000.25}]}
        assert presence.asked[:2] == [("", "", schemas.PAGE_DEFAULT + 1), ("", "", 3)]
        presence.fails = UNAVAILABLE
        said = ("503 UNAVAILABLE", {"error": UNAVAILABLE.message})
        assert await ask(client, contract.LIST_SUBJECT, {}) == said
        said = ("403 BAD_REQUEST", {"error": "state must be one of online, leaving, offline"})
        assert await ask(client, contract.LIST_SUBJECT, {"state": "gone"}) == said


async def test_the_largest_page_fits_into_a_reply(tmp_path: Path) -> None:
    presence = Presence([Record(f"{number:036}", "offline", 1_700_000_000.123456) for number in range(1200)])
    async with answering(tmp_path, List(presence).endpoint) as client:
        devices, after = await page(client, limit=schemas.PAGE_MAX)
        assert (len(devices), after) == (schemas.PAGE_MAX, devices[-1])


@given(st.lists(st.from_regex(contract.DEVICE_ID, fullmatch=True), unique=True), st.integers(1, 5))
def test_all_pages_together_are_every_device_once(devices: Sequence[str], limit: int) -> None:
    ordered, got, after = sorted(devices), list[str](), ""
    while True:
        found = [Record(device) for device in ordered if device > after][: limit + 1]
        reply = orjson.loads(encode(found, limit))
        got += [each["device"] for each in reply["devices"]]
        if "after" not in reply:
            break
        after = reply["after"]
    assert got == ordered


@pytest.mark.parametrize(
    "body",
    [
        {}, {"limit": 1}, {"limit": 1000}, {"limit": 1001}, {"limit": 0}, {"limit": -1}, {"limit": 1.0}, {"limit": 1.5},
        {"limit": "1"}, {"limit": None}, {"limit": True}, {"state": "online"}, {"state": "leaving"},
        {"state": "offline"}, {"state": ""}, {"state": "gone"}, {"state": None}, {"state": ["online"]}, {"state": 1},
        {"after": "a"}, {"after": ""}, {"after": None}, {"after": "a.b"}, {"after": "a\n"}, {"after": "x" * 37},
        {"more": 1},
    ],
    ids=ascii,
)  # fmt: skip
def test_the_schema_and_the_code_take_the_same(body: object) -> None:
    assert is_taken(decode, body) == REQUEST.is_valid(body)
