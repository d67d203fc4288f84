"""The stream and the bucket, made as they are wanted."""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from control_plane.wanted import Account, Bucket, Stream


async def ensure(jetstream: JetStreamContext, account: Account, *, replicas: int) -> None:
    """Make stream and bucket, or put the stream right where it has drifted. Nothing stored is lost."""
    await ensure_stream(jetstream, account.stream, replicas=replicas)
    await ensure_bucket(jetstream, account.bucket, replicas=replicas)


async def ensure_stream(jetstream: JetStreamContext, stream: Stream, *, replicas: int) -> None:
    config = StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=stream.max_age_s,
        max_bytes=stream.max_bytes,
        duplicate_window=stream.duplicate_window_s,
        num_replicas=replicas,
    )
    try:
        await jetstream.stream_info(stream.name)
    except NotFoundError:
        await jetstream.add_stream(config)
    else:
        await jetstream.update_stream(config)


async def ensure_bucket(jetstream: JetStreamContext, bucket: Bucket, *, replicas: int) -> None:
    try:
        await jetstream.stream_info(f"KV_{bucket.name}")
    except NotFoundError:
        config = KeyValueConfig(
            bucket=bucket.name,
            history=1,
            max_bytes=bucket.max_bytes,
            storage=StorageType.FILE,
            replicas=replicas,
            direct=True,
        )
        await jetstream.create_key_value(config)
