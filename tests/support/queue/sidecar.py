"""Sidecars for a test, and a client that knows only the original system's proto."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory

from local.process import claim_port
from local.system import Task, ready, service_task
from service.contracts import customer as contract
from service.contracts import queue
from service.contracts.stream import STREAM
from tests.support.world import World, one_authority

_INT64 = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING


def _original() -> dict[str, Any]:
    """Message classes of the original proto, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="original.proto", package="sqs", syntax="proto3")
    fields: dict[str, list[tuple[str, int]]] = {
        "SQSReceiveMessageRequest": [
            ("visibility_timeout", _INT64),
            ("wait_time", _INT64),
            ("maximum_number_of_messages", _INT64),
        ],
        "SQSResponseMessage": [("messageID", _STRING), ("messageBody", _STRING)],
        "SQSDeleteMessageRequest": [("messageID", _STRING)],
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for number, (member, kind) in enumerate(members, 1):
            message.field.add(name=member, number=number, type=kind, label=1)
    response = file.message_type.add(name="SQSReceiveMessageResponse")
    response.field.add(name="messages", number=1, type=11, label=3, type_name=".sqs.SQSResponseMessage")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = (*fields, "SQSReceiveMessageResponse")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sqs.{name}")) for name in names}


ORIGINAL = _original()


class OriginalClient:
    """Polls and deletes as the original system's client does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._receive = channel.unary_unary(
            "/sqs.SQSService/ReceiveMessage",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=ORIGINAL["SQSReceiveMessageResponse"].FromString,
        )
        self._delete = channel.unary_unary(
            "/sqs.SQSService/DeleteMessage",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=empty_pb2.Empty.FromString,
        )

    async def receive(self, visibility_s: int = 5, wait_s: int = 5, limit: int = 5) -> list[Any]:
        request = ORIGINAL["SQSReceiveMessageRequest"](
            visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=limit
        )
        return list((await self._receive(request, timeout=30)).messages)

    async def delete(self, receipt: str) -> None:
        await self._delete(ORIGINAL["SQSDeleteMessageRequest"](messageID=receipt), timeout=30)


def sidecar_env(world: World) -> dict[str, str]:
    return {
        "NATS_URL": world.nats_url,
        "NATS_CREDENTIALS": base64.b64encode(world.creds("queue").encode()).decode(),
        "QUEUE": f"jetstream:{STREAM}",
    }


@asynccontextmanager
async def sidecar(world: World, **overrides: str) -> AsyncIterator[tuple[Task, grpc.aio.Channel]]:
    """Start a sidecar of the world's stream; yield it, serving, and a channel to it."""
    async with started(world, {**sidecar_env(world), **overrides}) as (task, channel):
        yield task, channel


@asynccontextmanager
async def started(world: World, env: Mapping[str, str]) -> AsyncIterator[tuple[Task, grpc.aio.Channel]]:
    listen = f"127.0.0.1:{claim_port(0, '')}"
    given = {"QUEUE_LISTEN": listen, "LOG_FORMAT": "json", "SHUTDOWN_TIMEOUT": "10", **one_authority(), **env}
    log = world.folder / f"queue-{listen.rpartition(':')[2]}.log"
    async with service_task("queue", given, claim_port(0, ""), log, role="queue") as task:
        await ready(task)
        async with grpc.aio.insecure_channel(given["QUEUE_LISTEN"]) as channel:
            yield task, channel


async def store(world: World, *bodies: bytes, headers: dict[str, str] | None = None) -> None:
    """Publish messages to the stream."""
    async with world.administrator() as admin:
        for number, body in enumerate(bodies):
            await admin.publish(f"{contract.SUBJECT}.{number}", body, headers=headers)


async def set_ack_wait(world: World, seconds: int) -> None:
    """Set how long the consumer waits for an acknowledgement before it delivers a message again."""
    async with world.administrator() as admin:
        config = (await admin.consumer_info(STREAM, queue.CONSUMER)).config
        config.ack_wait = seconds
        await admin.add_consumer(STREAM, config)
