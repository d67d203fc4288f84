"""The stream and the bucket over NATS' own JetStream API, for a self-hosted server."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from control_plane.desired import Account, Bucket, Stream
from control_plane.errors import ProvisioningError

KV_PREFIX: Final = "KV_"
_OTHER: Final = "another storage, retention or discard policy"


async def ensure(jetstream: JetStreamContext, account: Account, *, replicas: int) -> None:
    """Make streams and buckets, and correct those that have drifted. Nothing stored is lost."""
    for stream in account.streams:
        await put(jetstream, stream_config(replace(stream, replicas=replicas)))
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
        replicas=config.num_replicas or 1,
    )


def bucket_from(config: StreamConfig) -> Bucket:
    return Bucket(
        name=(config.name or "").removeprefix(KV_PREFIX),
        max_bytes=config.max_bytes or -1,
        replicas=config.num_replicas or 1,
    )
