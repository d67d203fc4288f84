"""Show two queue sidecars and a client: no loss, redelivery of undeleted messages, dead letters."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import grpc
from rich.console import Console

from local.demos.demo import Demo, demonstration, sqs
from local.process import running
from local.roles import sidecar, stream_env
from local.servers.moto import moto
from local.system import System
from service.contracts import queue as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.nats.jetstream import backlog
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub

MESSAGES: Final = 200
QUEUE: Final = "orders"


async def run(console: Console) -> None:
    """Run the demonstration. Raises `LocalError` when a check fails."""
    starting = "nats-server, a DynamoDB engine, the HTTP gateway and two sidecars"
    async with demonstration(console, starting) as (demo, system):
        await _from_the_stream(demo, system)
        await _from_sqs(demo, system)


async def _receive(stub: Any, visibility_s: int = 30, limit: int = 100, wait_s: int = 5) -> list[Any]:
    request = pb.SQSReceiveMessageRequest(
        visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=limit
    )
    return list((await stub.ReceiveMessage(request)).messages)


async def _from_the_stream(demo: Demo, system: System) -> None:
    env, logs = {**stream_env(system), "QUEUE_MAX_DELIVER": "3"}, system.logs
    async with system.administrator() as admin, sidecar(env, logs) as first, sidecar(env, logs) as second:
        jetstream = admin.jetstream()
        await jetstream.publish(f"{EVENT_PREFIX}poison", b"poison")
        async with grpc.aio.insecure_channel(first[1]) as channel:
            stub = SQSServiceStub(channel)
            times = [(await _receive(stub, visibility_s=1))[0].times_received for _ in range(3)]
            demo.title("A message that is never deleted")
            demo.note(f"received {len(times)} times, 1 s apart")
            demo.check(times == [1, 2, 3], "a message that is not deleted comes again after its visibility")
            await _receive(stub, wait_s=3)
        dead = await jetstream.get_msg(contract.DEAD_STREAM, 1)
        reason = (dead.headers or {}).get("Queue-Reason", "")
        demo.note(f"then in {contract.DEAD_STREAM}: {reason}")
        demo.check(dead.data == b"poison", f"a poison message is in {contract.DEAD_STREAM}, with the reason")
        for number in range(MESSAGES):
            await jetstream.publish(f"{EVENT_PREFIX}{number}", b'{"balance":%d}' % number)
        async with grpc.aio.insecure_channel(first[1]) as channel:
            held = await _receive(SQSServiceStub(channel), visibility_s=2, limit=50)
        first[0].child.signal(signal.SIGKILL)
        demo.title(f"{MESSAGES} events; one sidecar is killed while its client holds {len(held)}")
        handled = await _client(demo, second[1], MESSAGES, logs)
        demo.check(len(set(handled)) == MESSAGES, f"all {MESSAGES} handled by the example client, none lost")
        info = await jetstream.consumer_info(STREAM, contract.CONSUMER)
        left = backlog(info)
        demo.check(left == 0, "nothing is left")


async def _from_sqs(demo: Demo, system: System) -> None:
    logs = system.logs
    async with moto(logs / "moto.log") as url:
        api = sqs(url)
        queue = (await asyncio.to_thread(api.create_queue, QueueName=QUEUE))["QueueUrl"]
        for number in range(20):
            await asyncio.to_thread(api.send_message, QueueUrl=queue, MessageBody=f"order {number}")
        demo.title(f"The same client on the SQS queue {QUEUE}")
        path, aws = os.environ.get("PATH", ""), {**system.dynamodb_env, "AWS_ENDPOINT_URL_SQS": url}
        async with sidecar({"PATH": path, **aws, "QUEUE": f"sqs:{QUEUE}"}, logs) as (_, listen):
            handled = await _client(demo, listen, 20, logs)
        demo.check(len(set(handled)) == 20, "the same client, unchanged, handled 20 messages of an SQS queue")


async def _client(demo: Demo, listen: str, messages: int, logs: Path) -> list[str]:
    """Run the example until it has deleted `messages` messages; return its log lines about them."""
    log = logs / f"client-{listen.rpartition(':')[2]}.log"
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
        demo.note(line[:110])
    demo.note(f"… {len(deleted())} deleted")
    return deleted()
