"""Streams, buckets and consumers over NATS' own JetStream API, for a self-hosted server."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from control_plane.desired import Account, Bucket, Consumer, Stream
from control_plane.errors import ProvisioningError

KV_PREFIX: Final = "KV_"
_OTHER: Final = "another storage, retention or discard policy"


async def ensure(jetstream: JetStreamContext, account: Account, *, replicas: int) -> None:
    """Make streams, buckets and consumers, and correct those that have drifted. Nothing stored is lost."""
    for stream in account.streams:
        await put(jetstream, stream_config(replace(stream, replicas=replicas)))
    for consumer in account.consumers:
        await put_consumer(jetstream, consumer)
    for bucket in account.buckets:
        await put(jetstream, bucket_config(replace(bucket, replicas=replicas)))


async def put(jetstream: JetStreamContext, config: StreamConfig) -> None:
    """Raises `ProvisioningError` with the server's reason."""
    try:
        if await look(jetstream, config.name or "") is None:
            await jetstream.add_stream(config)
        else:
            await jetstream.update_stream(config)
    except APIError as error:
        raise ProvisioningError(f"the server refuses stream {config.name}: {error.description}") from None


async def put_consumer(jetstream: JetStreamContext, consumer: Consumer) -> None:
    """Raises `ProvisioningError` with the server's reason."""
    try:
        await jetstream.add_consumer(consumer.stream, consumer_config(consumer))
    except APIError as error:
        name = f"consumer {consumer.name} of {consumer.stream}"
        raise ProvisioningError(f"the server refuses {name}: {error.description}") from None


async def look(jetstream: JetStreamContext, name: str) -> StreamConfig | None:
    try:
        return (await jetstream.stream_info(name)).config
    except NotFoundError:
        return None


async def remove(jetstream: JetStreamContext, name: str) -> None:
    try:
        await jetstream.delete_stream(name)
    except NotFoundError:
        return


def stream_config(stream: Stream) -> StreamConfig:
    return StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=stream.max_age_s,
        max_bytes=stream.max_bytes,
        duplicate_window=stream.duplicate_window_s,
        num_replicas=stream.replicas,
        allow_batched=stream.allow_batched or None,  # a server that does not know it refuses the word itself
    )


def bucket_config(bucket: Bucket) -> StreamConfig:
    """A bucket is a stream of this form:
    https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-8.md
    """
    return StreamConfig(
        name=KV_PREFIX + bucket.name,
        subjects=[f"$KV.{bucket.name}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_bytes=bucket.max_bytes,
        max_msgs_per_subject=1,
        num_replicas=bucket.replicas,
        duplicate_window=120,
        allow_rollup_hdrs=True,
        allow_direct=True,
        deny_delete=True,
    )


def consumer_config(consumer: Consumer) -> ConsumerConfig:
    return ConsumerConfig(
        name=consumer.name,
        durable_name=consumer.name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=consumer.ack_wait_s,
        max_ack_pending=consumer.max_ack_pending,
        max_deliver=consumer.max_deliver,
        filter_subject=consumer.filter or None,
    )


def consumer_from(stream: str, config: ConsumerConfig) -> Consumer:
    return Consumer(
        stream=stream,
        name=config.durable_name or config.name or "",
        ack_wait_s=int(config.ack_wait or 0),
        max_ack_pending=config.max_ack_pending or 0,
        max_deliver=config.max_deliver or -1,
        filter=config.filter_subject or " ".join(config.filter_subjects or ()),
    )


def is_bucket(config: StreamConfig) -> bool:
    return (config.name or "").startswith(KV_PREFIX)


def stream_from(config: StreamConfig) -> Stream:
    """A stream's settings in the words of what is wanted."""
    as_wanted = (
        config.storage == StorageType.FILE
        and config.retention == RetentionPolicy.LIMITS
        and config.discard == DiscardPolicy.OLD
    )
    return Stream(
        name=config.name or "",
        subjects=tuple(config.subjects or ()) if as_wanted else (*(config.subjects or ()), _OTHER),
        max_age_s=int(config.max_age or 0),
        max_bytes=config.max_bytes or -1,
        duplicate_window_s=int(config.duplicate_window or 0),
        allow_batched=bool(config.allow_batched),
        replicas=config.num_replicas or 1,
    )


def bucket_from(config: StreamConfig) -> Bucket:
    return Bucket(
        name=(config.name or "").removeprefix(KV_PREFIX),
        max_bytes=config.max_bytes or -1,
        replicas=config.num_replicas or 1,
    )
