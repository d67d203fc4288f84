"""What gRPC is told by string has an effect: it knows no wrong name, and says nothing of one.

The names are those of gRPC's `channel_arg_names.h`; what a client does is in gRPC's guide to keepalive.
https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h
https://grpc.io/docs/guides/keepalive/
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import _async, health_pb2, health_pb2_grpc

from service.grpc.listen import OPTIONS, bind
from service.queue import sqs_pb2 as pb
from service.queue.server import SQSService
from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError
from tests.service.queue.test_source import reading
from tests.support.queue.http2 import call, pinger
from tests.support.world import World, eventually

FACTOR = 40
"""Seconds of the server and of the client are this much shorter here."""
GO_S = 10
"""A Go client sends PING no more often: https://pkg.go.dev/google.golang.org/grpc/keepalive#ClientParameters"""
EARLY = 0.8
"""Timers and the network may bring two of them closer together."""
PINGS = 8
STREAM = pb.SQSStreamMessagesRequest(visibility_timeout=30, maximum_number_of_messages=10)
WATCH = health_pb2.HealthCheckRequest()
OPEN = {
    "StreamMessages": call("StreamMessages", STREAM, 1),
    "Watch": call("Watch", WATCH, 1, "grpc.health.v1.Health"),
    "no call": b"",
}


def scaled(*without: str) -> list[tuple[str, int]]:
    return [
        (name, value // FACTOR if name.endswith("_ms") else value) for name, value in OPTIONS if name not in without
    ]


@asynccontextmanager
async def listening(world: World, options: list[tuple[str, int]]) -> AsyncIterator[int]:
    async with reading(world) as source:
        server, service, health = grpc.aio.server(options=options), SQSService(source), _async.HealthServicer()
        service.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await service.stop()
            await server.stop(0)


@pytest.mark.parametrize("opened", OPEN.values(), ids=OPEN.keys())
async def test_a_client_with_the_shortest_keepalive_of_go_keeps_its_idle_connection(world: World, opened: Any) -> None:
    async with listening(world, scaled()) as port, pinger(port) as client:
        client.send(opened)
        assert await client.ping(PINGS, EARLY * GO_S / FACTOR) == ""


@pytest.mark.parametrize(
    ("option", "opened"),
    [
        ("grpc.http2.min_ping_interval_without_data_ms", OPEN["Watch"]),
        ("grpc.keepalive_permit_without_calls", OPEN["no call"]),
    ],
)
async def test_without_the_option_the_same_client_loses_it(world: World, option: str, opened: bytes) -> None:
    async with listening(world, scaled(option)) as port, pinger(port) as client:
        client.send(opened)
        assert await client.ping(PINGS, EARLY * GO_S / FACTOR) == "too_many_pings"


async def test_the_server_looks_whether_an_idle_client_is_there(world: World) -> None:
    """By default gRPC looks after two hours."""
    async with listening(world, scaled()) as port, pinger(port) as client:
        client.send(OPEN["Watch"])
        await eventually(client.pinged.is_set, what="the server's PING")


async def test_a_second_sidecar_on_the_port_ends_with_the_cause() -> None:
    """By default gRPC shares the port, and each call is a matter of luck."""
    first, second = (grpc.aio.server(options=OPTIONS) for _ in range(2))
    try:
        port = await bind(first, QueueSettings(queue="jetstream:s", queue_listen="127.0.0.1:0").address)
        await first.start()
        with pytest.raises(ServiceError, match="taken by another program"):
            await bind(second, QueueSettings(queue="jetstream:s", queue_listen=f"127.0.0.1:{port}").address)
    finally:
        await first.stop(None)
        await second.stop(None)


def test_every_option_is_seen_above() -> None:
    assert {name for name, _ in OPTIONS} == {
        "grpc.so_reuseport",
        "grpc.keepalive_time_ms",
        "grpc.keepalive_permit_without_calls",
        "grpc.http2.min_ping_interval_without_data_ms",
    }
