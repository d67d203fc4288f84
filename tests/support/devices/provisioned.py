"""What the role needs in an account, until the control plane makes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StreamConfig

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import DAY_S, EVERYTHING, MIB, User
from control_plane.self_hosted import provider as self_hosted
from service.contracts import devices as contract
from tests.support.world import World

DEVICE: Final = User(contract.DEVICE_SCOPE, contract.DEVICE_PUBLISH, contract.DEVICE_SUBSCRIBE)
ROLE: Final = User(contract.USER, contract.PUBLISH, contract.SUBSCRIBE, responses=True)
LIMITS: Final = replace(
    EVERYTHING.limits, disk_bytes=EVERYTHING.limits.disk_bytes + 1024 * MIB, streams=16, connections=-1, consumers=5_000
)


async def push(world: World, device: Key, **account: Any) -> None:
    """Give the server the account's claims, with `device` as the devices' signing key."""
    scope = claims.scope(device.public, DEVICE, 0)
    scope["template"] |= {"bearer_token": True, "allowed_connection_types": ["MQTT"]}
    token = claims.account_jwt(
        "test", world.account.public, world.servers.operator, limits=LIMITS, signing_keys=[scope], **account
    )  # type: ignore[arg-type]
    async with self_hosted.connected(world.nats_url.split(","), world.servers.system_creds) as system:
        await self_hosted.push_account(system, token)


async def provision(admin: JetStreamContext, replicas: int) -> None:
    """Make streams, bucket and consumers, before the first device connects."""
    for stream in (
        StreamConfig(
            name=contract.MQTT_STREAM, subjects=[f"{contract.MQTT_PREFIX}>"], retention=RetentionPolicy.INTEREST,
            max_bytes=256 * MIB, discard=DiscardPolicy.NEW,
        ),
        StreamConfig(
            name=contract.BUCKET_STREAM, subjects=[f"{contract.KEY_PREFIX}>"], max_msgs_per_subject=1,
            max_bytes=64 * MIB, discard=DiscardPolicy.NEW, allow_rollup_hdrs=True, allow_direct=True, deny_delete=True,
            allow_msg_ttl=True, allow_atomic=True, subject_delete_marker_ttl=contract.MARKERS_S,
        ),
        StreamConfig(
            name=contract.OUTAGES_STREAM, subjects=[f"{contract.EVENT_PREFIX}*.*"], max_age=30 * DAY_S,
            max_bytes=64 * MIB,
        ),
        StreamConfig(
            name=contract.DEAD_STREAM, subjects=[f"{contract.DEAD_SUBJECT}.*"], max_age=30 * DAY_S,
            max_bytes=contract.DEAD_BYTES, discard=DiscardPolicy.NEW,
        ),
    ):  # fmt: skip
        await admin.add_stream(stream, num_replicas=replicas)
    filters = {
        contract.DATA_CONSUMER: [contract.DATA_FILTER],
        contract.LIFE_CONSUMER: list(contract.LIFE_FILTERS),
        contract.EXPIRY_CONSUMER: [contract.EXPIRY_FILTER],
    }
    for stream_name, name in contract.CONSUMERS:
        consumer = ConsumerConfig(
            name=name, durable_name=name, ack_policy=AckPolicy.EXPLICIT, ack_wait=contract.ACK_WAIT_S,
            max_ack_pending=contract.MAX_ACK_PENDING, filter_subjects=filters.get(name),
        )  # fmt: skip
        await admin.add_consumer(stream_name, consumer)
