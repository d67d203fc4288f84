"""`devices.get`: presence from the bucket, the last reading from the real engine, over a real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from nats.aio.client import Client

from service.contracts import devices as contract
from service.contracts import devices_schemas as schemas
from service.devices.endpoints.get import Get, decode
from service.devices.query.table import Readings
from tests.support.devices.endpoints import UNAVAILABLE, Presence, Record, answering, ask
from tests.support.devices.rows import put, readings_table, row
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal, stall
from tests.support.schema import ecma, is_taken

REQUEST = jsonschema.Draft202012Validator(ecma(schemas.GET_REQUEST_SCHEMA))
RESPONSE = jsonschema.Draft202012Validator(schemas.GET_RESPONSE_SCHEMA)

Asking = tuple[Client, Presence, Readings]


@pytest.fixture
async def asking(proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Asking]:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    presence = Presence([Record("d1", "leaving"), Record("d2")])
    async with (
        readings_table(proxy.env) as readings,
        answering(tmp_path, Get(presence, readings).endpoint) as client,
    ):
        yield client, presence, readings


async def get(client: Client, body: object) -> tuple[str, Any]:
    code, reply = await ask(client, contract.GET_SUBJECT, body)
    if code == "OK":
        RESPONSE.validate(reply)
    return code, reply


async def test_a_device_with_its_state_and_its_last_reading(proxy: FaultyDynamoDB, asking: Asking) -> None:
    client, _, readings = asking
    late = row("d1", 9, 4, temp={"N": "-1.5"}, clock={"S": "none"}, clock_skew_s={"N": "-400"})
    await put(readings.name, proxy.env, [row("d1", 8, 3), late, row("d10", 10, 5)])
    assert await get(client, {"device": "d1"}) == ("OK", {
        "device": "d1", "state": "leaving", "since": 1_700_000_000.25,
        "last": {
            "epoch": 9, "temp": -1.5, "rh": 40, "sensor": "t", "facility": "7", "received_ms": 9_250,
            "clock_skew_s": -400, "clock": "none", "entry_id": 4,
        },
    })  # fmt: skip


async def test_a_device_without_a_reading_has_no_last_one(proxy: FaultyDynamoDB, asking: Asking) -> None:
    client, _, readings = asking
    told = {"device": "d2", "state": "online", "since": 1_700_000_000.25}
    assert await get(client, {"device": "d2"}) == ("OK", told)
    await put(readings.name, proxy.env, [row("d2", 9, temp=None)])
    assert await get(client, {"device": "d2"}) == ("OK", told), "a row of another form is no reading"


async def test_a_device_without_a_record_is_not_found_whatever_its_readings(
    proxy: FaultyDynamoDB, asking: Asking
) -> None:
    client, _, readings = asking
    await put(readings.name, proxy.env, [row("d3", 9)])
    proxy.calls.clear()
    assert await get(client, {"device": "d3"}) == ("404 NOT_FOUND", {"error": "no such device"})
    assert not proxy.calls


async def test_a_request_that_names_no_device_is_refused(asking: Asking) -> None:
    client, _, _ = asking
    said = {"error": "device must be a device's id: 1 to 36 of A-Z, a-z, 0-9, _ and -"}
    assert await get(client, {"device": "a.b"}) == ("403 BAD_REQUEST", said)
    assert await get(client, b"{") == ("403 BAD_REQUEST", {"error": "the request is not JSON"})


async def test_what_does_not_answer_is_unavailable_and_what_is_broken_is_our_fault(
    proxy: FaultyDynamoDB, asking: Asking
) -> None:
    client, presence, _ = asking
    proxy.fault = lambda *_: refusal("ThrottlingException")
    said = {"error": "the database is busy; try again"}
    assert await get(client, {"device": "d1"}) == ("503 UNAVAILABLE", said)
    proxy.fault = stall(60)
    said = {"error": "the database did not answer in time; try again"}
    assert await get(client, {"device": "d1"}) == ("503 UNAVAILABLE", said)
    proxy.fault = lambda *_: refusal("AccessDeniedException")
    assert await get(client, {"device": "d1"}) == ("500 INTERNAL_ERROR", {"error": "internal error"})
    presence.fails = UNAVAILABLE
    assert await get(client, {"device": "d1"}) == ("503 UNAVAILABLE", {"error": UNAVAILABLE.message})
    presence.fails = ZeroDivisionError("a secret")
    assert await get(client, {"device": "d1"}) == ("500 INTERNAL_ERROR", {"error": "internal error"})
    presence.fails, proxy.fault = None, None
    assert (await get(client, {"device": "d1"}))[0] == "OK"


@pytest.mark.parametrize(
    "body",
    [
        {"device": "a"}, {"device": "A-z_09"}, {"device": "x" * 36}, {"device": "x" * 37}, {"device": ""}, {},
        {"device": None}, {"device": 7}, {"device": ["a"]}, {"device": "a.b"}, {"device": "*"}, {"device": ">"},
        {"device": "a\n"}, {"device": "\na"}, {"device": "a b"}, {"device": "\u00fc"}, {"device": "\u0661"},
        {"device": "a", "more": 1},
    ],
    ids=ascii,
)  # fmt: skip
def test_the_schema_and_the_code_take_the_same(body: object) -> None:
    assert is_taken(decode, body) == REQUEST.is_valid(body)
