"""`service.Query` as clients see it: the original's call, ranges, mutual TLS, refusals; on the real engine."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.contracts import devices as contract
from service.devices.query import table
from service.devices.query.query_pb2_grpc import QueryStub
from service.devices.query.row import EPOCH_MAX
from service.devices.query.server import Query
from service.devices.query.table import Readings
from service.grpc.address import Address
from service.grpc.server import Server
from service.runtime.errors import ServiceError
from tests.support.certificates import Certificates
from tests.support.devices.rows import ORIGINAL, original_rows, put, readings_table, row, served
from tests.support.world import Servers

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NUMBERS = itertools.count()
EPOCHS = st.integers(0, 12) | st.integers(0, EPOCH_MAX)


@pytest.fixture
async def readings(servers: Servers, aws: None) -> AsyncIterator[Readings]:
    async with readings_table(servers.dynamodb_env) as readings:
        yield readings


async def test_the_originals_call_gets_every_row_as_the_original_has_it(servers: Servers, readings: Readings) -> None:
    rows = [
        row("d1", 1_700_000_000, 7, temp={"N": "-12.25"}, rh={"N": "75.5"}),
        row("d1", 1_700_000_000, 2**31 - 1, facility={"S": "north"}),
        row("d-2", 0, 1, facility=None, sensor=None, received_ms=None),
        row("d_3", 5, 0, facility={"S": "2147483648"}, clock={"S": "none"}, clock_skew_s={"N": "-4000"}),
        row("d4", EPOCH_MAX, 3, temp={"N": "3.4028235E+38"}, rh={"N": "1E-45"}),
    ]
    await put(readings.name, servers.dynamodb_env, rows)
    async with served(readings) as it:
        with grpc.insecure_channel(f"127.0.0.1:{it.port}") as channel:
            got = await asyncio.to_thread(original_rows, channel)
    assert sorted(got, key=lambda each: each.device + str(each.entry_id)) == [
        ORIGINAL(device="d-2", entry_id=1, temp=21.5, rh=40),
        ORIGINAL(device="d1", entry_id=2**31 - 1, temp=21.5, rh=40, epoch=1_700_000_000),
        ORIGINAL(device="d1", entry_id=7, facility_id=7, temp=-12.25, rh=75.5, epoch=1_700_000_000),
        ORIGINAL(device="d4", entry_id=3, facility_id=7, temp=3.4028235e38, rh=1e-45, epoch=EPOCH_MAX),
        ORIGINAL(device="d_3", temp=21.5, rh=40, epoch=5),
    ]
    assert it.query.counts.rows == 5
    assert readings.skipped == 0


@pytest.mark.parametrize(
    "other",
    [
        {"epoch": None}, {"temp": None}, {"rh": None}, {"entry_id": None}, {"epoch": {"S": "5"}},
        {"temp": {"N": "1E+39"}}, {"temp": {"S": "1"}},
        {"epoch": {"N": "5.5"}}, {"epoch": {"N": "-1"}}, {"epoch": {"N": "1000000000000"}}, {"rh": {"NULL": True}},
        {"entry_id": {"N": "2147483648"}}, {"entry_id": {"L": []}},
    ],
    ids=str,
)  # fmt: skip
async def test_rows_of_other_forms_are_skipped_and_counted(
    servers: Servers, readings: Readings, other: dict[str, Any]
) -> None:
    await put(readings.name, servers.dynamodb_env, [row("d", 5, 1), row("d", 6, 2, **other), row("d", 7, 3)])
    async with served(readings) as it:
        assert sorted([each.entry_id async for each in it.scan()]) == [1, 3]
        assert [each.entry_id async for each in it.range("d", limit=2)] == [1, 3], "a limit counts what is sent"
        assert readings.skipped >= 2
        last = await readings.last("d")
        assert last
        assert last.entry_id == 3


async def test_what_is_known_beside_a_reading_may_be_missing_or_be_anything(
    servers: Servers, readings: Readings
) -> None:
    names = ("facility", "sensor", "received_ms", "clock_skew_s", "clock")
    values: tuple[Any, ...] = (None, {"S": "x"}, {"N": "1.5"}, {"NULL": True}, {"L": [{"S": "7"}]}, {"M": {}})
    rows = [row("d", 5, number, **dict.fromkeys(names, value)) for number, value in enumerate(values)]
    await put(readings.name, servers.dynamodb_env, rows)
    async with served(readings) as it:
        got = [(each.entry_id, each.facility_id) async for each in it.range("d")]
    assert got == [(number, 0) for number in range(len(values))]
    assert (await readings.last("d")) is not None
    assert readings.skipped == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    epochs=st.lists(EPOCHS, max_size=12),
    others=st.lists(EPOCHS, max_size=2, unique=True),
    start=EPOCHS,
    length=st.none() | EPOCHS,
    limit=st.integers(0, 9),
    newest_first=st.booleans(),
    page=st.integers(1, 5),
)
async def test_ranges_order_and_limits_are_those_of_a_plain_list(
    servers: Servers, readings: Readings, epochs: Sequence[int], others: Sequence[int], start: int,
    length: int | None, limit: int, newest_first: bool, page: int,
) -> None:  # fmt: skip
    device, end = f"d{next(NUMBERS)}", 0 if length is None else min(start + length, EPOCH_MAX)
    rows = [row(device, epoch, number) for number, epoch in enumerate(epochs)]
    await put(readings.name, servers.dynamodb_env, [*rows, *(row(f"{device}-", epoch) for epoch in others)])
    expected = sorted((epoch, number) for number, epoch in enumerate(epochs) if start <= epoch < (end or 10**12))
    if newest_first:
        expected.reverse()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "PAGE_ROWS", page)
        async with served(readings) as it:
            stream = it.range(device, start=start, to=end, limit=limit, newest_first=newest_first)
            got = [(each.epoch, each.entry_id) async for each in stream]
    assert got == (expected[:limit] if limit else expected)
    last = await readings.last(device)
    assert (last and (last.epoch, last.entry_id)) == max([(e, n) for n, e in enumerate(epochs)], default=None)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"device": ""}, "device is ''; give 1 to 36 of A-Z, a-z, 0-9, _ and -"),
        ({"device": "a.b"}, "device is 'a.b'; give"),
        ({"device": "*"}, "device is '*'; give"),
        ({"device": "d\n"}, "device is 'd\\n'; give"),
        ({"device": "x" * 4_000}, f"device is '{'x' * 40}'; give"),
        ({"device": "d", "start": -1}, "from is -1; give 0 to 999999999999"),
        ({"device": "d", "start": 10**12}, "from is 1000000000000; give 0 to 999999999999"),
        ({"device": "d", "to": -1}, "to is -1; give 0 to 999999999999"),
        ({"device": "d", "start": 7, "to": 6}, "to is 6; give 7 to 999999999999"),
        ({"device": "d", "limit": -1}, "limit is -1; give 0 to 2147483647"),
    ],
    ids=range(10),
)
async def test_a_request_out_of_range_is_refused_and_the_field_named(
    readings: Readings, request_: dict[str, Any], said: str
) -> None:
    async with served(readings) as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.range(**request_).read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert str(caught.value.details()).startswith(said)
        assert it.query.calls.refused == 1


@asynccontextmanager
async def mutual(readings: Readings, certificates: Certificates, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve with certificates; yield the address."""
    address = Address("DEVICES", f"{host}:0", "0600", *certificates.files(), mutual=True)
    server = Server(address, contract.GRPC_SERVICE, Query(readings))
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_mutual_tls_accepts_only_a_certificate_of_the_authority(
    servers: Servers, readings: Readings, tmp_path: Path, host: str
) -> None:
    certificates = Certificates(trustme.CA(), tmp_path)
    await put(readings.name, servers.dynamodb_env, [row("d", 5, 9)])

    def rows(credentials: grpc.ChannelCredentials | None) -> list[int]:
        with grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address) as channel:
            return [each.entry_id for each in original_rows(channel)]

    async with mutual(readings, certificates, host) as address:
        assert await asyncio.to_thread(rows, certificates.client(certificates.authority)) == [9]
        for stranger in (certificates.client(trustme.CA()), certificates.client(None), None):
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(rows, stranger)
            assert caught.value.code() == UNAVAILABLE


async def test_other_machines_reach_it_with_a_certificate_only(readings: Readings, tmp_path: Path) -> None:
    chain, key, _ = Certificates(trustme.CA(), tmp_path).files()
    for certificate in (("", ""), (chain, key)):
        address = Address("DEVICES", "0.0.0.0:0", "0600", *certificate, "", mutual=True)
        server = Server(address, contract.GRPC_SERVICE, Query(readings))
        with pytest.raises(ServiceError, match=r"0\.0\.0\.0:0 is reachable .* DEVICES_CLIENT_CA is not set; listen on"):
            await server.start()
        await server.close()


async def test_health_and_reflection_tell_the_service(readings: Readings) -> None:
    async with served(readings) as it, grpc.aio.insecure_channel(f"127.0.0.1:{it.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=contract.GRPC_SERVICE), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=contract.GRPC_SERVICE)
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (described,) = [answer async for answer in stub.ServerReflectionInfo(iter((asked,)), timeout=5)]
        protos = described.file_descriptor_response.file_descriptor_proto
        files = map(descriptor_pb2.FileDescriptorProto.FromString, protos)
        (service,) = [service for file in files for service in file.service]
        assert {method.name for method in service.method} == {"GetSensorRows", "GetDeviceRows"}
        assert hasattr(QueryStub(channel), "GetDeviceRows")
