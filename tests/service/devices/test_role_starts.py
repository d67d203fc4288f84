"""The role says what it needs and what is missing, what it does, and what its variables are."""

from __future__ import annotations

import signal
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from control_plane.auth import claims
from control_plane.desired import EVERYTHING
from service.contracts import devices as contract
from service.contracts.cloudwatch import METRICS_NAMESPACE
from service.devices.figures import UNITS
from service.devices.settings import DevicesSettings
from service.runtime.settings import variables
from tests.support.command import finished
from tests.support.devices.load import FIRST_S, reading
from tests.support.devices.world import DevicesWorld
from tests.support.world import complaint, eventually, get, metric, statistics

Remove = Callable[[DevicesWorld], Awaitable[Any]]


async def checked(devices: DevicesWorld, **overrides: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of `--check`."""
    code, output = await finished("service", "devices", "--check", **devices.environment(**overrides))
    return code, output.splitlines()


async def ended(devices: DevicesWorld, **overrides: str) -> tuple[int, str]:
    async with devices.launch(**overrides) as task:
        code = await task.child.wait()
        return code, complaint(task.child.log.read_text())


async def test_check_finds_everything_once(devices: DevicesWorld) -> None:
    code, lines = await checked(devices, OUTAGE_WEBHOOK="http://127.0.0.1:9/")
    assert code == 0, lines
    assert {line.partition(" ")[0] for line in lines} == {"ok"}
    found = "\n".join(lines)
    for stream, consumer in contract.CONSUMERS:
        assert found.count(f"consumer {consumer} of {stream}, backlog 0") == 1, found
    for what in ("permissions", f"stream {contract.MQTT_STREAM}", f"stream {contract.DEAD_STREAM}", "table "):
        assert found.count(what) == 1, found


def consumer_gone(stream: str, name: str) -> Remove:
    return lambda devices: devices.admin.delete_consumer(stream, name)


def stream_gone(name: str) -> Remove:
    return lambda devices: devices.admin.delete_stream(name)


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        *(
            (consumer_gone(stream, name), f"consumer {name} of stream {stream} does not exist; make it with")
            for stream, name in contract.CONSUMERS
        ),
        (stream_gone(contract.MQTT_STREAM), f"stream {contract.MQTT_STREAM} does not exist; make it with"),
        (stream_gone(contract.DEAD_STREAM), f"stream {contract.DEAD_STREAM} does not exist; make it with"),
        (stream_gone(contract.OUTAGES_STREAM), f"stream {contract.OUTAGES_STREAM} does not exist; make it with"),
        (stream_gone(contract.BUCKET_STREAM), f"{contract.BUCKET} does not exist; make it with"),
    ],
    ids=lambda value: value.split(" does")[0].replace(" ", "-") if isinstance(value, str) else "",
)
async def test_check_names_what_is_missing(devices: DevicesWorld, remove: Remove, said: str) -> None:
    await remove(devices)
    code, lines = await checked(devices, OUTAGE_WEBHOOK="http://127.0.0.1:9/")
    assert code == 1
    assert [line for line in lines if line.startswith("missing") and said in line], lines


async def test_check_names_the_permissions_of_another_user(devices: DevicesWorld) -> None:
    allowed = tuple(subject for subject in contract.PUBLISH if not subject.startswith(contract.DEAD_SUBJECT))
    user = replace(EVERYTHING.user(contract.USER), publish=allowed, subscribe=(f"{contract.INBOX_PREFIX}.>",))
    creds = claims.mint_creds(user, devices.world.account, account=devices.world.account.public)
    code, lines = await checked(devices, NATS_CREDENTIALS=b64encode(creds.encode()).decode())
    assert code == 1
    (line,) = [line for line in lines if "no permission to" in line]
    assert f"{contract.DEAD_SUBJECT}.*" in line
    assert f"subscribe to {contract.GET_SUBJECT}" in line
    assert "use the credentials of user `devices`" in line


async def test_check_names_a_table_that_is_missing_or_has_other_keys(devices: DevicesWorld) -> None:
    code, lines = await checked(devices, DEVICES_TABLE="not-there")
    assert (code, lines[-1].startswith("missing  table not-there does not exist")) == (1, True), lines
    code, lines = await checked(devices, DEVICES_TABLE=devices.world.table)
    assert (code, lines[-1].startswith("missing")) == (1, True), lines
    assert "has the keys id (S); give a table with the keys device (S), reading (S)" in lines[-1]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"DEVICES_TABLE": ""}, "DEVICES_TABLE is not set"),
        ({"DEVICES_LISTEN": "0.0.0.0:0"}, "is reachable from other machines"),
        ({"DEVICE_SILENCE": "-1"}, "DEVICE_SILENCE is not valid"),
        ({"PULSE": "often"}, "PULSE is not valid"),
        ({"OUTAGE_FORM": "xml"}, "OUTAGE_FORM is not valid"),
        ({"RETENTION_DAYS": "-1"}, "RETENTION_DAYS is not valid"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
async def test_it_says_in_one_line_what_is_wrong(devices: DevicesWorld, overrides: dict[str, str], said: str) -> None:
    code, line = await ended(devices, **overrides)
    assert code == 1
    assert said in line


async def test_help_lists_every_variable() -> None:
    code, output = await finished("service", "devices", "--help")
    assert code == 0
    listed = {line.split()[0] for line in output.splitlines() if line.startswith("  ") and line.strip()}
    named = {name for name, _, _ in variables(DevicesSettings)}
    assert {"DEVICES_TABLE", "FACILITY", "PULSE", "OUTAGE_WEBHOOK", "DEVICE_SILENCE", "NATS_URL"} <= named
    assert named <= listed
    assert "Readings of MQTT devices into a DynamoDB table" in output


async def test_secrets_are_in_no_line_of_the_log(devices: DevicesWorld) -> None:
    secrets = {"OUTAGE_WEBHOOK": "http://127.0.0.1:9/hook-k7Q2", "OUTAGE_BOT_ID": "bot-z9W4"}
    async with devices.task(**secrets, LOG_LEVEL="debug") as task:
        task.child.signal(signal.SIGTERM)
        await task.child.wait()
        log = task.child.log.read_text()
    assert "k7Q2" not in log
    assert "z9W4" not in log


async def test_it_is_seen_in_metrics_statistics_health_and_cloudwatch(devices: DevicesWorld) -> None:
    async with devices.task() as task, devices.world.client() as client:
        device = await devices.connect("d1")
        await device.publish("data/d1/room", reading("d1", FIRST_S))
        await device.publish("data/d1/room", b"")
        await eventually(devices.is_written, what="an empty backlog")
        assert await metric(task, "devices_readings_total") == 1
        assert await metric(task, "devices_dead_letters_total") == 1
        assert await metric(task, "devices_held") == 0

        async def polled() -> bool:
            return "devices_readings_waiting 0.0" in (await get(f"{task.health_url}/metrics"))[1]

        await eventually(polled, what="the backlog among the metrics")
        (stats,) = await statistics(client, 1, name=contract.SERVICE_NAME)
        assert [endpoint["name"] for endpoint in stats["endpoints"]] == [contract.GET_NAME, contract.LIST_NAME]
        assert stats["endpoints"][0]["data"]["readings"] == 1
        assert (await get(f"{task.health_url}/readyz"))[0] == 200
        task.child.signal(signal.SIGTERM)
        await task.child.wait()
        (line,) = [line for line in task.child.log.read_text().splitlines() if '"_aws"' in line]
        await device.disconnect()
    figures = orjson.loads(line)
    (directive,) = figures["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], figures["Table"]) == (METRICS_NAMESPACE, devices.table)
    assert {each["Name"]: each["Unit"] for each in directive["Metrics"]} == UNITS
    assert (figures["DevicesReadings"], figures["DevicesDeadLetters"]) == (1, 1)
    assert 0 <= figures["DevicesSilence"] < 60
