"""An account that takes devices, the table of their readings, and the role's tasks."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from benchmark.load.mqtt import Mqtt, Will
from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import EVERYTHING
from control_plane.parts import DEVICE, DEVICES
from control_plane.resources import Account
from control_plane.self_hosted.provider import FOR_GOOD
from local.process import claim_port
from local.servers import dynamodb
from local.system import Task, ready, service_env, service_task
from service.contracts import devices as contract
from service.nats.jetstream import backlog
from tests.support.nats.declared import ensure
from tests.support.world import World

HOST = "127.0.0.1"


@dataclass
class DevicesWorld:
    world: World
    table: str
    admin: JetStreamContext
    signer: Key
    """The devices' scoped signing key."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The AWS environment of its tasks: the engine's, unless a test sets a proxy's."""
    _names: Any = field(default_factory=itertools.count)

    def password(self, device: str) -> str:
        """Return a device's bearer JWT: it needs no signature, as MQTT has none."""
        return claims.scoped_user_jwt(device, Key.user().public, self.signer, account=self.world.account.public)

    async def connect(
        self, device: str, *, user: str = "", will: bytes | None = None, node: int = 0, **options: Any
    ) -> Mqtt:
        """Connect a device, as `user` if given; `will` is the payload of its will on `lwt/<device>`."""
        last = {} if will is None else {"will": Will(f"lwt/{device}", will)}
        port = self.world.servers.mqtt_ports[node]
        return await Mqtt.connect(
            HOST, port, device, user=device, password=self.password(user or device), **{**last, **options}
        )

    def environment(self, **overrides: str) -> dict[str, str]:
        servers = self.world.servers
        env = service_env(
            self.world.nats_url, self.world.creds(contract.USER), "unused", self.env or servers.dynamodb_env
        )
        del env["DDB_TABLE"]
        own = {"DEVICES_TABLE": self.table, "DEVICES_LISTEN": f"{HOST}:{claim_port(0, '')}"}
        return {**env, **own, "LOG_FORMAT": "json", "SHUTDOWN_TIMEOUT": "10", **overrides}

    @asynccontextmanager
    async def launch(self, **overrides: str) -> AsyncIterator[Task]:
        """Start a process of the role without waiting for it."""
        name = f"devices-{next(self._names)}"
        log, env = self.world.folder / f"{name}.log", self.environment(**overrides)
        async with service_task(name, env, claim_port(0, ""), log, role="devices") as task:
            yield task

    @asynccontextmanager
    async def task(self, **overrides: str) -> AsyncIterator[Task]:
        """Start a process of the role; yield it once it is ready."""
        async with self.launch(**overrides) as task:
            await ready(task)
            yield task

    async def backlog(self, consumer: str = contract.DATA_CONSUMER) -> int:
        """Return how many messages a consumer of `$MQTT_msgs` has not acknowledged."""
        return backlog(await self.admin.consumer_info(contract.MQTT_STREAM, consumer))

    async def shorten_ack_wait(self, seconds: int = 2) -> None:
        """Let the consumers soon deliver again what a dead task holds."""
        for stream, name in contract.CONSUMERS:
            config = (await self.admin.consumer_info(stream, name)).config
            await self.admin.add_consumer(stream, replace(config, ack_wait=seconds))

    def engine(self) -> Any:
        return dynamodb.client(self.world.servers.dynamodb_env)

    def rows(self) -> list[Mapping[str, Any]]:
        """Return every row of the table, as DynamoDB's attribute values."""
        pages = self.engine().get_paginator("scan").paginate(TableName=self.table)
        return [item for page in pages for item in page["Items"]]

    def readings(self) -> list[tuple[str, int]]:
        """Return device and epoch of each row."""
        return sorted((row["device"]["S"], int(row["epoch"]["N"])) for row in self.rows())

    async def is_written(self) -> bool:
        """Return whether no reading waits."""
        return await self.backlog() == 0

    async def letters(self) -> list[RawStreamMsg]:
        """Return every dead letter."""
        last = (await self.admin.stream_info(contract.DEAD_STREAM)).state.last_seq
        return [await self.admin.get_msg(contract.DEAD_STREAM, number) for number in range(1, last + 1)]

    async def record(self, device: str) -> dict[str, Any] | None:
        """Return a device's record, None if there is none."""
        try:
            found = await self.admin.get_last_msg(contract.BUCKET_STREAM, f"{contract.KEY_PREFIX}{device}")
        except NotFoundError:
            return None
        record: dict[str, Any] = orjson.loads(found.data or b"null")
        return record

    async def state(self, device: str) -> str:
        """Return a device's state, empty if it has no record."""
        record = await self.record(device)
        return str(record["state"]) if record else ""

    async def events(self) -> Sequence[tuple[str, dict[str, Any]]]:
        """Return each event so far: `down.<device>` or `up.<device>`, and its body."""
        last = (await self.admin.stream_info(contract.OUTAGES_STREAM)).state.last_seq
        found = [await self.admin.get_msg(contract.OUTAGES_STREAM, number) for number in range(1, last + 1)]
        return [
            ((message.subject or "").removeprefix(contract.EVENT_PREFIX), orjson.loads(message.data or b"null"))
            for message in found
        ]

    async def revoke(self, *passwords: str) -> None:
        """Revoke these passwords for ever."""
        await self.push(revoked={claims.decode(password)["sub"]: FOR_GOOD for password in passwords})

    async def push(self, **account: Any) -> None:
        """Give the server the account's claims, with the devices' signing key."""
        await self.world.push(limits=LIMITS, signing_keys=[claims.scope(self.signer.public, DEVICE, 0)], **account)


LIMITS = replace(EVERYTHING.limits, connections=-1, consumers=100_000)
"""As a deployment with many devices would set them."""


@asynccontextmanager
async def make_devices(world: World) -> AsyncIterator[DevicesWorld]:
    """Let the world's account take devices; make their table."""
    table, signer = f"readings-{uuid.uuid4().hex[:12]}", Key.account()
    keys = (contract.PARTITION_KEY, contract.SORT_KEY)
    await dynamodb.create_table(table, world.servers.dynamodb_env, keys)
    async with world.administrator() as admin:
        declared = Account(EVERYTHING.limits, (), DEVICES.streams, DEVICES.buckets, DEVICES.consumers)
        await ensure(admin, declared, replicas=world.servers.replicas)
        devices = DevicesWorld(world, table, admin, signer)
        await devices.push()
        yield devices
