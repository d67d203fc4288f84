"""Manage streams, buckets and consumers over JetStream's API, for a self-hosted server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import APIError, NotFoundError

from control_plane import settings
from control_plane.errors import ProvisioningError
from control_plane.parts import PARTS
from control_plane.resources import Consumer, Stream
from control_plane.settings import KV_PREFIX, ObjectSettings

TIMEOUT_S: Final = 5
NOT_THERE: Final = 404


async def put_stream(jetstream: JetStreamContext, stream: Stream) -> None:
    """Create a stream, or change it to the wanted settings; for one of the server's own streams, to the wanted bounds.

    Raises `ProvisioningError` with the server's reason.
    """
    wanted = settings.stream_settings(stream)
    if stream.of_server:
        with suppress(NotFoundError):
            there = (await jetstream.stream_info(stream.name)).config.as_dict()
            wanted = {**there, **settings.bounds(wanted)}
    await put(jetstream, wanted)


async def put(jetstream: JetStreamContext, wanted: ObjectSettings) -> None:
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


async def streams(client: Client) -> dict[str, ObjectSettings]:
    """Return name -> settings of every stream, including those of buckets."""
    found = await _listed(client, "$JS.API.STREAM.LIST", "streams")
    return {info["config"]["name"]: info["config"] for info in found}


async def durable_consumers(client: Client, stream: str) -> dict[str, ObjectSettings]:
    """Return name -> settings of a stream's durable consumers; for the server's own streams, of the declared ones."""
    if names := _declared(stream):
        answers = [await _answer(client, f"$JS.API.CONSUMER.INFO.{stream}.{name}") for name in names]
        found = [answer for answer in answers if "config" in answer]
    else:
        found = await _listed(client, f"$JS.API.CONSUMER.LIST.{stream}", "consumers")
    return {
        info["name"]: settings.as_consumer_settings(info["config"])
        for info in found
        if info["config"].get("durable_name")
    }


def _declared(stream: str) -> tuple[str, ...]:
    """Return the declared consumers of one of the server's own streams, which also has one per session; else ()."""
    ours = [part for part in PARTS if any(each.name == stream and each.of_server for each in part.streams)]
    return tuple(each.name for part in ours for each in part.consumers if each.stream == stream)


async def _listed(client: Client, subject: str, key: str) -> list[dict[str, Any]]:
    """Read all pages."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await _answer(client, subject, {"offset": len(found)})
        page = answer.get(key) or []
        found += page
        if not page or len(found) >= answer["total"]:
            return found


async def _answer(client: Client, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the server's answer as sent: nats-py drops settings that it does not know.

    "Not found" is an answer too. Raises `ProvisioningError` for any other error.
    """
    try:
        reply = await client.request(subject, json.dumps(body).encode() if body else b"", timeout=TIMEOUT_S)
    except nats.errors.Error as error:
        raise ProvisioningError(f"JetStream does not answer {subject} ({error}); see that it is enabled") from None
    answer: dict[str, Any] = json.loads(reply.data)
    refused = answer.get("error") or {}
    if refused and refused.get("code") != NOT_THERE:
        raise ProvisioningError(f"the server refuses {subject}: {refused.get('description')}")
    return answer


def is_bucket(stream: str) -> bool:
    return stream.startswith(KV_PREFIX)


def _stream_config(wanted: ObjectSettings) -> StreamConfig:
    config: StreamConfig = StreamConfig.from_response(dict(wanted))
    return config
