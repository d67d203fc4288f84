"""The streams, buckets and consumers that an account declares, without its users."""

from __future__ import annotations

from dataclasses import replace

from nats.js import JetStreamContext

from control_plane import settings
from control_plane.resources import Account
from control_plane.self_hosted import jetstream


async def ensure(admin: JetStreamContext, account: Account, *, replicas: int) -> None:
    """Create streams, buckets and consumers, and correct those that have drifted. Nothing stored is lost."""
    for stream in account.streams:
        await jetstream.put_stream(admin, replace(stream, replicas=replicas))
    for bucket in account.buckets:
        await jetstream.put(admin, settings.bucket_stream_settings(replace(bucket, replicas=replicas)))
    for consumer in account.consumers:
        await jetstream.put_consumer(admin, consumer)
