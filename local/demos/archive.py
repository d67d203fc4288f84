"""Archive a backlog with tasks started from zero, and end them: from a JetStream stream, then from an SQS queue."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from nats.aio.client import Client
from rich.console import Console

from deploy.sections import ArchiveSection, ScalingStep
from local.demos.demo import Demo, demonstration, sqs
from local.process import LocalError
from local.scaling.supervisor import KEYS, TABLE, Supervisor, section, stream_backlog
from local.servers.dynamodb import client, create_table, items
from local.servers.moto import moto
from local.system import Say, System, service_env
from service.contracts import archive as contract
from service.contracts.stream import EVENT_PREFIX
from service.nats.client import roundtrip

EVENTS: Final = 12_000
NUMBERS: Final = 300
QUEUE: Final = "numbers"
STEPS: Final = ArchiveSection(
    idle_exit=2,
    steps=(ScalingStep(backlog=1, tasks=1), ScalingStep(backlog=2_000, tasks=2), ScalingStep(backlog=10_000, tasks=3)),
)


@asynccontextmanager
async def supervised(system: System, say: Say) -> AsyncIterator[Supervisor]:
    """Run archive tasks by the backlog of the system's stream and the steps in `deploy/settings.toml`."""
    await create_table(TABLE, system.dynamodb_env, KEYS)
    async with system.administrator() as admin:
        jetstream = admin.jetstream()
        supervisor = Supervisor(
            lambda: stream_backlog(jetstream),
            _env(system, f"jetstream:{contract.STREAM}", TABLE),
            system.logs,
            section(),
            say,
        )
        say("archive: no task; the backlog starts them")
        supervising = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)


async def run(console: Console) -> None:
    """Run the demonstration. Raises `LocalError` when a check fails."""
    async with demonstration(console, "nats-server, a DynamoDB engine and the HTTP gateway") as (demo, system):
        await create_table(TABLE, system.dynamodb_env, KEYS)
        await _from_the_stream(demo, system)
        await create_table(QUEUE, system.dynamodb_env, KEYS)
        await _from_the_queue(demo, system)


def _env(system: System, source: str, table: str) -> dict[str, str]:
    env = service_env(system.nats_url, system.creds[contract.USER], "", system.dynamodb_env)
    return {**env, "ARCHIVE_SOURCE": source, "ARCHIVE_TABLE": table, "LOG_FORMAT": "json"}


async def _from_the_stream(demo: Demo, system: System) -> None:
    demo.title(f"{EVENTS:,} events pile up in the stream; no task is running")
    async with system.administrator() as admin:
        await _publish(admin)
        jetstream = admin.jetstream()
        async with asyncio.timeout(30):  # published without acknowledgements, so the stream may lag
            while await stream_backlog(jetstream) < EVENTS:
                await asyncio.sleep(0.1)
        backlog = await stream_backlog(jetstream)
        demo.note(f"backlog {backlog:,}, rows {len(_rows(system, TABLE)):,}")
        demo.check(backlog == EVENTS, f"a backlog of {EVENTS:,}, and no task")
        demo.title("The backlog starts tasks, and they end when it is gone")
        supervisor = Supervisor(
            lambda: stream_backlog(jetstream), _env(system, f"jetstream:{contract.STREAM}", TABLE), system.logs,
            STEPS, demo.note,
        )  # fmt: skip
        await _until_zero(supervisor)
        demo.check(await stream_backlog(jetstream) == 0, "the backlog is empty")
    _ended(demo, supervisor)
    rows = _rows(system, TABLE)
    hosts = Counter(row["host"]["S"] for row in rows)
    for host, count in sorted(hosts.items()):
        demo.note(f"{count:,} rows by {host}")
    sequences = {int(row["sequence"]["N"]) for row in rows}
    exact = len(rows) == EVENTS and sequences == set(range(1, EVENTS + 1))
    demo.check(exact, f"exactly one row for each of the {EVENTS:,} events")
    demo.check(len(hosts) >= 2, "rows from two tasks or more")


async def _from_the_queue(demo: Demo, system: System) -> None:
    async with moto(system.logs / "moto.log") as url:
        api = sqs(url)
        queue = (await asyncio.to_thread(api.create_queue, QueueName=QUEUE))["QueueUrl"]
        numbers = [random.randrange(1_000_000) for _ in range(NUMBERS)]
        await asyncio.to_thread(_send, api, queue, numbers)
        demo.title(f"The same from SQS: {NUMBERS:,} random numbers in the queue {QUEUE}")

        async def backlog() -> int:
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            answer = await asyncio.to_thread(api.get_queue_attributes, QueueUrl=queue, AttributeNames=names)
            return sum(int(answer["Attributes"][name]) for name in names)

        demo.check(await backlog() == NUMBERS, f"a backlog of {NUMBERS:,} numbers, and no task")
        supervisor = Supervisor(
            backlog, {**_env(system, f"sqs:{QUEUE}", QUEUE), "AWS_ENDPOINT_URL_SQS": url}, system.logs / "sqs",
            STEPS, demo.note,
        )  # fmt: skip
        await _until_zero(supervisor)
        demo.check(await backlog() == 0, "the queue is empty")
    _ended(demo, supervisor)
    for child in supervisor.ended:
        if child.process.returncode:
            demo.note(f"{child.name}: {child.last_words()}")
    bodies = Counter(row["body"]["S"] for row in _rows(system, QUEUE))
    demo.check(bodies == Counter(map(str, numbers)), f"exactly one row for each of the {NUMBERS:,} numbers")


async def _until_zero(supervisor: Supervisor) -> None:
    """Run the supervisor until the tasks it started have ended."""
    supervising = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(300):
            while not supervisor.ended or supervisor.running:
                if supervising.done():
                    await supervising
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise LocalError("the archive's tasks did not end") from None
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)


def _ended(demo: Demo, supervisor: Supervisor) -> None:
    codes = [child.process.returncode for child in supervisor.ended]
    ended = f"{len(codes)} tasks ended by themselves" if len(codes) > 1 else "the task ended by itself"
    demo.check(set(codes) == {0}, f"{ended}, with 0")


async def _publish(admin: Client) -> None:
    for number in range(EVENTS):
        headers = {"Nats-Msg-Id": f"demo.{number}"}
        await admin.publish(f"{EVENT_PREFIX}{number % 1000}", b'{"balance":%d}' % number, headers=headers)
        if number % 2_000 == 0:
            await roundtrip(admin)
    await roundtrip(admin)


def _send(api: Any, queue: str, numbers: list[int]) -> None:
    for start in range(0, len(numbers), 10):
        entries = [{"Id": str(i), "MessageBody": str(number)} for i, number in enumerate(numbers[start : start + 10])]
        api.send_message_batch(QueueUrl=queue, Entries=entries)


def _rows(system: System, table: str) -> list[Any]:
    return list(items(client(system.dynamodb_env), table))
