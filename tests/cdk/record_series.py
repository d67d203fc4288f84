"""`python -m tests.cdk.record_series healthy-20 --rate 20 --minutes 12`: record what the roles report of a real system.

The series that alarms are evaluated on (tests/cdk/series): a nats-server, a DynamoDB engine, a task of `customer`, the
archive's tasks by its backlog, a queue sidecar with a handler. With `--stuck`, the archive has no table to write to and
nobody handles the queue's messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import grpc
from nats.aio.client import Client

from control_plane.self_hosted import provider as self_hosted
from local.demos.archive import _env as archive_env
from local.process import claim_port, running
from local.roles import sidecar, stream_env
from local.scaling.supervisor import KEYS, TABLE, Supervisor, section, stream_backlog
from local.servers.dynamodb import create_table
from local.system import Ports, System, local_system, ready, service_env, service_task
from service.contracts import archive as contract
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from service.runtime.cancel import cancel

FOLDER: Final = Path(__file__).with_name("series")
ANY_PORT: Final = Ports(nats=0, dynamodb=0, gateway=0, health=0)
TICKS_PER_S: Final = 20
CLIENTS: Final = 1000
LONGEST_S: Final = 7_200


async def record(name: str, rate: int, minutes: int, *, stuck: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        async with running_system(Path(folder), logs, stuck=stuck) as system:
            await ask(system, rate, minutes * 60 + 40)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(by_minute(logs, minutes)) + "\n")


@asynccontextmanager
async def running_system(folder: Path, logs: Path, *, stuck: bool) -> AsyncIterator[System]:
    async with local_system(folder, ANY_PORT, tasks=0, say=print) as system, AsyncExitStack() as stack:
        if not stuck:
            await create_table(TABLE, system.dynamodb_env, KEYS)
        env = service_env(system.nats_url, system.creds["service"], "balances", system.dynamodb_env)
        started = service_task("customer", {**env, "LOG_FORMAT": "json"}, claim_port(0, ""), logs / "customer.log")
        await ready(await stack.enter_async_context(started))
        creds = self_hosted.administrator_of(system.state.operator(), system.account, expires_s=LONGEST_S)
        admin = await stack.enter_async_context(self_hosted.connected(system.nats_url, creds))
        jetstream = admin.jetstream()
        supervisor = Supervisor(
            lambda: stream_backlog(jetstream), archive_env(system, f"jetstream:{contract.STREAM}", TABLE), logs,
            section(), print,
        )  # fmt: skip
        _, listen = await stack.enter_async_context(sidecar(stream_env(system), logs))
        if not stuck:  # in a process of its own: one that has called gRPC must not fork
            command = [sys.executable, "-m", "tests.cdk.record_series", "handler", "--handle", listen]
            await stack.enter_async_context(running("handler", command, logs / "handler.txt"))
        work = asyncio.create_task(supervisor.run())
        try:
            yield system
        finally:
            await cancel(work)


async def handle(listen: str) -> None:
    """Receive and delete, as a business container does."""
    async with grpc.aio.insecure_channel(listen) as channel:
        stub = SQSServiceStub(channel)
        while True:
            request = pb.SQSReceiveMessageRequest(visibility_timeout=30, wait_time=5, maximum_number_of_messages=100)
            received = await stub.ReceiveMessage(request)
            if receipts := [message.messageID for message in received.messages]:
                await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts))


async def ask(system: System, rate: int, seconds: float) -> None:
    """Send requests at a steady rate; their replies are not looked at."""
    loop = asyncio.get_running_loop()
    async with self_hosted.connected(system.nats_url, system.creds["client"]) as client:
        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=ignore)
        began, sent = loop.time(), 0
        while (elapsed := loop.time() - began) < seconds:
            await send(client, inbox, sent, due := int(elapsed * rate))
            sent = due
            await asyncio.sleep(1 / TICKS_PER_S)


async def send(client: Client, inbox: str, sent: int, due: int) -> None:
    for number in range(sent, due):
        await client.publish("customer.balance", b'{"client_id":"%d"}' % (number % CLIENTS + 1), reply=inbox)


async def ignore(_: object) -> None:
    pass


def by_minute(logs: Path, minutes: int) -> dict[str, list[list[float]]]:
    """For each metric, the values that all tasks reported in each minute."""
    lines = []
    for log in logs.glob("*.log"):
        for line in log.read_text().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    reports = [line for line in lines if isinstance(line, dict) and "_aws" in line]
    first = min(report["_aws"]["Timestamp"] for report in reports)
    series: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in range(minutes)])
    for report in reports:
        minute = round((report["_aws"]["Timestamp"] - first) / 60_000)
        for directive in report["_aws"]["CloudWatchMetrics"]:
            for metric in directive["Metrics"]:
                if minute < minutes:
                    series[metric["Name"]][minute].append(round(report[metric["Name"]], 4))
    return dict(sorted(series.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cdk.record_series", description=__doc__)
    parser.add_argument("name", help="of the file in tests/cdk/series")
    parser.add_argument("--rate", type=int, default=20, help="requests/s")
    parser.add_argument("--minutes", type=int, default=12)
    parser.add_argument("--stuck", action="store_true", help="nobody archives, nobody handles the queue's messages")
    parser.add_argument("--handle", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.handle:
        asyncio.run(handle(given.handle))
    asyncio.run(record(given.name, given.rate, given.minutes, stuck=given.stuck))


if __name__ == "__main__":
    main()
