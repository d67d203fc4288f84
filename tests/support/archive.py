"""An archive's table, its tasks, and events to be archived."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from nats.js import JetStreamContext

from local.process import claim_port
from local.servers import dynamodb
from local.system import Task, ready, service_env, service_task
from service.contracts import archive as contract
from service.nats.jetstream import backlog
from service.sources.jetstream import message
from service.sources.jetstream.message import StreamMessage
from tests.support.world import World

Rows = list[Mapping[str, Any]]


@dataclass
class ArchiveWorld:
    world: World
    table: str
    admin: JetStreamContext
    env: Mapping[str, str] = field(default_factory=dict)
    """The AWS environment of its tasks: the engine's, unless a test sets a proxy's."""
    _names: Any = field(default_factory=itertools.count)

    def environment(self, **overrides: str) -> dict[str, str]:
        servers = self.world.servers
        env = service_env(
            self.world.nats_url, self.world.creds(contract.USER), "unused", self.env or servers.dynamodb_env
        )
        del env["DDB_TABLE"]
        own = {"ARCHIVE_SOURCE": f"jetstream:{contract.STREAM}", "ARCHIVE_TABLE": self.table, "IDLE_EXIT": "0"}
        return {**env, **own, "LOG_FORMAT": "json", "SHUTDOWN_TIMEOUT": "10", **overrides}

    @asynccontextmanager
    async def launch(self, **overrides: str) -> AsyncIterator[Task]:
        name = f"archive-{next(self._names)}"
        log = self.world.folder / f"{name}.log"
        env = self.environment(**overrides)
        async with service_task(name, env, claim_port(0, ""), log, role="archive") as task:
            yield task

    @asynccontextmanager
    async def task(self, **overrides: str) -> AsyncIterator[Task]:
        async with self.launch(**overrides) as task:
            await ready(task)
            yield task

    async def run_to_end(self, **overrides: str) -> tuple[int, str]:
        async with self.launch(**overrides) as task, asyncio.timeout(40):
            code = await task.child.wait()
            return code, task.child.log.read_text()

    async def publish(self, count: int, *, first: int = 0, body: bytes = b"") -> None:
        """Publish events of clients `0`, `1`, ..., each with its `Nats-Msg-Id`."""
        await self.publish_all(
            (f"customer.balance.{number}", body or b'{"balance":%d}' % number, {"Nats-Msg-Id": f"m{number}"})
            for number in range(first, first + count)
        )

    async def publish_all(self, events: Iterable[tuple[str, bytes, dict[str, str] | None]]) -> None:
        for chunk in _chunks(events, 500):
            sent = [self.admin.publish(subject, body, headers=headers, timeout=10) for subject, body, headers in chunk]
            await asyncio.gather(*sent)

    async def backlog(self) -> int:
        info = await self.admin.consumer_info(contract.STREAM, contract.CONSUMER)
        return backlog(info)

    async def is_archived(self) -> bool:
        return await self.backlog() == 0

    async def shorten_ack_wait(self) -> None:
        """Let the stream soon deliver again what a dead task holds."""
        config = (await self.admin.consumer_info(contract.STREAM, contract.CONSUMER)).config
        await self.admin.add_consumer(contract.STREAM, dataclasses.replace(config, ack_wait=2))

    async def limit(self, stream: str, max_bytes: int) -> None:
        """Make a stream smaller."""
        config = (await self.admin.stream_info(stream)).config
        await self.admin.update_stream(dataclasses.replace(config, max_bytes=max_bytes))

    def engine(self) -> Any:
        return dynamodb.client(self.world.servers.dynamodb_env)

    def rows(self) -> Rows:
        pages = self.engine().get_paginator("scan").paginate(TableName=self.table)
        return [item for page in pages for item in page["Items"]]

    def sequences(self) -> list[int]:
        """Return the sequences of the rows, sorted."""
        scan = self.engine().get_paginator("scan")
        names = {"#sequence": "sequence"}
        pages = scan.paginate(TableName=self.table, ProjectionExpression="#sequence", ExpressionAttributeNames=names)
        return sorted(int(row["sequence"]["N"]) for page in pages for row in page["Items"])


@asynccontextmanager
async def make_archive(world: World) -> AsyncIterator[ArchiveWorld]:
    table = f"events-{uuid.uuid4().hex[:12]}"
    keys = (contract.PARTITION_KEY, contract.SORT_KEY)
    await dynamodb.create_table(table, world.servers.dynamodb_env, keys)
    async with world.administrator() as admin:
        yield ArchiveWorld(world, table, admin)


def delivered(subject: bytes, reply: bytes, data: bytes, headers: bytes) -> StreamMessage:
    """Return a message as it is on the wire."""
    (one,) = message.delivered([message.arrival(subject, reply, data, headers)], consumer=1, until_ms=0)
    return one


def ended(log: str) -> str:
    """Return why a task ended: its last line, a record or, before it had settings, plain text."""
    (line,) = [line for line in log.splitlines() if line.startswith("error: ") or '"event":"ended"' in line]
    if line.startswith("error: "):
        return line.removeprefix("error: ")
    record = orjson.loads(line)
    return f"{record['problem']}; {record['remedy']}"


def _chunks(events: Iterable[Any], size: int) -> Iterable[Sequence[Any]]:
    iterator = iter(events)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
