"""Manage streams, buckets and consumers over JetStream's API, for a self-hosted server."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import APIError, NotFoundError

from control_plane import settings
from control_plane.errors import ProvisioningError
from control_plane.resources import Account, Consumer, Stream
from control_plane.settings import KV_PREFIX, Settings

TIMEOUT_S: Final = 5


async def ensure(jetstream: JetStreamContext, account: Account, *, replicas: int) -> None:
    """Create streams, buckets and consumers, and correct those that have drifted. Nothing stored is lost."""
    for stream in account.streams:
        await put_stream(jetstream, replace(stream, replicas=replicas))
    for bucket in account.buckets:
        await put(jetstream, settings.bucket_stream_settings(replace(bucket, replicas=replicas)))
    for consumer in account.consumers:
        await put_consumer(jetstream, consumer)


async def put_stream(jetstream: JetStreamContext, stream: Stream) -> None:
    """Create a stream, or change it to the wanted settings: of a stream that is the server's, to the wanted bounds.

    Raises `ProvisioningError` with the server's reason.
    """
    wanted = settings.stream_settings(stream)
    if stream.of_server:
        with suppress(NotFoundError):
            there = (await jetstream.stream_info(stream.name)).config.as_dict()
            wanted = {**there, **settings.bounds(wanted)}
    await put(jetstream, wanted)


async def put(jetstream: JetStreamContext, wanted: Settings) -> None:
    """Create a stream, or change it to the wanted settings.

    Raises `ProvisioningError` with the server's reason.
    """
    name = str(wanted["name"])
    try:
        try:
            there = (await jetstream.stream_info(name)).config.as_dict()
        except NotFoundError:
            await jetstream.add_stream(_stream_config(wanted))
            return
        settings.check_changeable("stream", name, wanted, there)
        await jetstream.update_stream(_stream_config({**settings.cleared("stream", wanted, there), **wanted}))
    except APIError as error:
        raise ProvisioningError(f"the server refuses stream {name}: {error.description}") from None


async def remove(jetstream: JetStreamContext, name: str) -> None:
    try:
        await jetstream.delete_stream(name)
    except NotFoundError:
        return


async def put_consumer(jetstream: JetStreamContext, consumer: Consumer) -> None:
    """Create or change a consumer. Raises `ProvisioningError` with the server's reason."""
    wanted = settings.consumer_settings(consumer)
    try:
        await jetstream.add_consumer(consumer.stream, ConsumerConfig.from_response(dict(wanted)))
    except APIError as error:
        name = f"consumer {consumer.name} of {consumer.stream}"
        raise ProvisioningError(f"the server refuses {name}: {error.description}") from None


async def streams(client: Client) -> dict[str, Settings]:
    """Return name -> settings of every stream, including those of buckets."""
    found = await _listed(client, "$JS.API.STREAM.LIST", "streams")
    return {info["config"]["name"]: info["config"] for info in found}


async def durable_consumers(client: Client, stream: str) -> dict[str, Settings]:
    found = await _listed(client, f"$JS.API.CONSUMER.LIST.{stream}", "consumers")
    return {
        info["name"]: settings.as_consumer_settings(info["config"])
        for info in found
        if info["config"].get("durable_name")
    }


async def _listed(client: Client, subject: str, key: str) -> list[dict[str, Any]]:
    """Read all pages, as the server sends them: nats-py drops settings that it does not know."""
    found: list[dict[str, Any]] = []
    while True:
        try:
            reply = await client.request(subject, json.dumps({"offset": len(found)}).encode(), timeout=TIMEOUT_S)
        except nats.errors.Error as error:
            raise ProvisioningError(f"JetStream does not answer {subject} ({error}); see that it is enabled") from None
        answer = json.loads(reply.data)
        if "error" in answer:
            raise ProvisioningError(f"the server refuses {subject}: {answer['error'].get('description')}")
        page = answer.get(key) or []
        found += page
        if not page or len(found) >= answer["total"]:
            return found


def is_bucket(stream: str) -> bool:
    return stream.startswith(KV_PREFIX)


def _stream_config(wanted: Settings) -> StreamConfig:
    config: StreamConfig = StreamConfig.from_response(dict(wanted))
    return config
