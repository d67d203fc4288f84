"""Rows of the table of readings, its server, and a client that knows only the original system's proto."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory

from local.servers import dynamodb
from service.contracts import devices as contract
from service.devices.query import query_pb2 as pb
from service.devices.query.query_pb2_grpc import QueryStub
from service.devices.query.server import Query
from service.devices.query.table import Readings
from service.grpc.address import Address
from service.grpc.server import Server

CALL_S = 60
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0),)
"""A client's option: its window stays at HTTP/2's 65,535 bytes."""
_INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_INT64 = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
_FLOAT = descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING


def _original() -> Any:
    """Return the class of the original's only message, made in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="original.proto", package="service", syntax="proto3")
    message = file.message_type.add(name="SensorRows")
    fields = {
        "entry_id": _INT32, "facility_id": _INT32, "device": _STRING, "temp": _FLOAT, "rh": _FLOAT, "epoch": _INT64,
    }  # fmt: skip
    for number, (name, kind) in enumerate(fields.items(), 1):
        message.field.add(name=name, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("service.SensorRows"))


ORIGINAL = _original()


def original_rows(channel: grpc.Channel) -> list[Any]:
    """Call as the original's client does: blocking, with no deadline of its own."""
    call: Any = channel.unary_stream(
        "/service.Query/GetSensorRows",
        request_serializer=empty_pb2.Empty.SerializeToString,
        response_deserializer=ORIGINAL.FromString,
    )
    return list(call(empty_pb2.Empty(), timeout=CALL_S))


def row(device: str, epoch: int, number: int = 0, /, **other: Any) -> dict[str, Any]:
    """Return a row as the role writes it. `other` are attributes in place of its own; None leaves one out."""
    made = {
        contract.PARTITION_KEY: {"S": device},
        contract.SORT_KEY: {"S": f"{epoch:012d}#{number:012x}"},
        "epoch": {"N": str(epoch)},
        "temp": {"N": "21.5"},
        "rh": {"N": "40"},
        "sensor": {"S": "t"},
        "facility": {"S": "7"},
        "received_ms": {"N": str(epoch * 1000 + 250)},
        "entry_id": {"N": str(number)},
        **other,
    }
    return {name: value for name, value in made.items() if value is not None}


@asynccontextmanager
async def readings_table(env: Mapping[str, str], rows: Sequence[Mapping[str, Any]] = ()) -> AsyncIterator[Readings]:
    """Make a table with these rows; the AWS configuration of the test's process must be `env`."""
    name = f"readings-{uuid.uuid4().hex[:12]}"
    await dynamodb.create_table(name, env, (contract.PARTITION_KEY, contract.SORT_KEY))
    await put(name, env, rows)
    async with opened(name) as readings:
        yield readings


async def put(name: str, env: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(rows), 25):
        requests: Any = [{"PutRequest": {"Item": item}} for item in rows[start : start + 25]]
        await asyncio.to_thread(dynamodb.client(env).batch_write_item, RequestItems={name: requests})


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Readings]:
    readings = Readings(name)
    readings.open()
    try:
        yield readings
    finally:
        readings.close()


@dataclass(frozen=True)
class Served:
    query: Query
    server: Server
    port: int
    stub: QueryStub

    def scan(self) -> Any:
        return self.stub.GetSensorRows(empty_pb2.Empty(), timeout=CALL_S)

    def range(self, device: str, *, start: int = 0, **other: Any) -> Any:
        asked: dict[str, Any] = {"device": device, "from": start, **other}  # `from` is a word of Python's
        return self.stub.GetDeviceRows(pb.Range(**asked), timeout=CALL_S)


@asynccontextmanager
async def served(readings: Readings) -> AsyncIterator[Served]:
    """Serve the table in clear text; yield the server, and a client with a small window."""
    query = Query(readings)
    server = Server(Address("DEVICES", "127.0.0.1:0", "0600", "", "", ""), contract.GRPC_SERVICE, query)
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SMALL_WINDOW) as channel:
            yield Served(query, server, port, QueryStub(channel))
    finally:
        await server.close()
