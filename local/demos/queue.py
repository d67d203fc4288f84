"""Show two queue sidecars and a client: no loss, redelivery of undeleted messages, dead letters."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import boto3
import grpc
from rich.console import Console

from local.demos.balance import ANY_PORT
from local.demos.checks import show
from local.moto import moto
from local.process import running
from local.sidecar import sidecar, stream_env
from local.system import System, local_system
from service.contracts import queue as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.nats.jetstream import backlog
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub

MESSAGES: Final = 200
QUEUE: Final = "orders"
Checks = list[tuple[bool, str]]


async def run(console: Console) -> None:
    """Run the demonstration. Raises `LocalError` when a check fails."""
    checks: Checks = []
    with tempfile.TemporaryDirectory(prefix="queue-demo-") as name:
        folder = Path(name)
        console.print("[bold]Starting nats-server, a DynamoDB engine, the HTTP gateway and two sidecars[/]")
        async with local_system(folder, ANY_PORT, tasks=0, say=lambda line: console.print(f"  {line}")) as system:
            await _from_the_stream(console, checks, system, folder)
            await _from_sqs(console, checks, folder)
    show(console, checks)


async def _receive(stub: Any, visibility_s: int = 30, limit: int = 100, wait_s: int = 5) -> list[Any]:
    request = pb.SQSReceiveMessageRequest(
        visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=limit
    )
    return list((await stub.ReceiveMessage(request)).messages)


async def _from_the_stream(console: Console, checks: Checks, system: System, folder: Path) -> None:
    env, logs = {**stream_env(system), "QUEUE_MAX_DELIVER": "3"}, folder / "logs"
    async with system.administrator() as admin, sidecar(env, logs) as first, sidecar(env, logs) as second:
        jetstream = admin.jetstream()
        await jetstream.publish(f"{EVENT_PREFIX}poison", b"poison")
        async with grpc.aio.insecure_channel(first[1]) as channel:
            stub = SQSServiceStub(channel)
            times = [(await _receive(stub, visibility_s=1))[0].times_received for _ in range(3)]
            console.print(f"\n[bold]A message that is never deleted[/]\n  received {len(times)} times, 1 s apart")
            checks.append((times == [1, 2, 3], "a message that is not deleted comes again after its visibility"))
            await _receive(stub, wait_s=3)
        dead = await jetstream.get_msg(contract.DEAD_STREAM, 1)
        reason = (dead.headers or {}).get("Queue-Reason", "")
        console.print(f"  then in {contract.DEAD_STREAM}: {reason}")
        checks.append((dead.data == b"poison", f"a poison message is in {contract.DEAD_STREAM}, with the reason"))
        for number in range(MESSAGES):
            await jetstream.publish(f"{EVENT_PREFIX}{number}", b'{"balance":%d}' % number)
        async with grpc.aio.insecure_channel(first[1]) as channel:
            held = await _receive(SQSServiceStub(channel), visibility_s=2, limit=50)
        first[0].child.signal(signal.SIGKILL)
        console.print(f"\n[bold]{MESSAGES} events; one sidecar is killed while its client holds {len(held)}[/]")
        handled = await _client(console, second[1], MESSAGES, folder)
        checks.append((len(set(handled)) == MESSAGES, f"all {MESSAGES} handled by the example client, none lost"))
        info = await jetstream.consumer_info(STREAM, contract.CONSUMER)
        left = backlog(info)
        checks.append((left == 0, "nothing is left"))


async def _from_sqs(console: Console, checks: Checks, folder: Path) -> None:
    async with moto(folder / "logs" / "moto.log") as url:
        env = {
            "AWS_ENDPOINT_URL_SQS": url, "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
        }  # fmt: skip
        sqs: Any = boto3.client(
            "sqs", endpoint_url=url, region_name="eu-central-1",
            aws_access_key_id="local", aws_secret_access_key="local",  # noqa: S106
        )  # fmt: skip
        queue = (await asyncio.to_thread(sqs.create_queue, QueueName=QUEUE))["QueueUrl"]
        for number in range(20):
            await asyncio.to_thread(sqs.send_message, QueueUrl=queue, MessageBody=f"order {number}")
        console.print(f"\n[bold]The same client on the SQS queue {QUEUE}[/]")
        given = {"PATH": os.environ.get("PATH", ""), **env, "QUEUE": f"sqs:{QUEUE}"}
        async with sidecar(given, folder / "logs") as (_, listen):
            handled = await _client(console, listen, 20, folder)
        checks.append((len(set(handled)) == 20, "the same client, unchanged, handled 20 messages of an SQS queue"))


async def _client(console: Console, listen: str, messages: int, folder: Path) -> list[str]:
    """Run the example until it has deleted `messages` messages; return its log lines about them."""
    log = folder / "logs" / f"client-{listen.rpartition(':')[2]}.log"
    env = {"PATH": os.environ.get("PATH", ""), "SIDECAR": listen, "POLLINGINTERVAL": "0"}
    command = [sys.executable, "-m", "examples.queue_client"]
    said = "Message deleted successfully: "

    def deleted() -> list[str]:
        return [line for line in log.read_text().splitlines() if said in line]

    async with running("client", command, log, env) as child, asyncio.timeout(60):
        while len(deleted()) < messages and child.process.returncode is None:
            await asyncio.sleep(0.1)
        lines = log.read_text().splitlines()
    for line in lines[:5]:
        console.print(f"  {line[:110]}", markup=False, highlight=False)
    console.print(f"  … {len(deleted())} deleted")
    return deleted()
