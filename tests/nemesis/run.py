"""One run of a plan: start everything, disturb it while clients work, let it heal, and gather what is stored."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import nats.errors
import orjson
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from local import dynamodb
from local.process import claim_port
from local.system import service_env
from service.contracts import archive, customer, queue
from service.contracts.stream import STREAM
from service.nats.jetstream import backlog
from tests.nemesis.faults import System, applied
from tests.nemesis.history import History, Recovery, Stored
from tests.nemesis.plan import OF_CONNECTIONS, OF_SERVERS, Fault, Plan
from tests.nemesis.processes import Slot
from tests.nemesis.work import Work
from tests.support.bank import OPENING, Bank
from tests.support.dynamodb.faulty import FaultyDynamoDB, faulty_dynamodb
from tests.support.network import network
from tests.support.own_servers import own_server
from tests.support.queue.clients import Clients, delete, delete_after
from tests.support.queue.sidecar import set_ack_wait
from tests.support.world import Servers, World, eventually, make_world, one_authority

CLIENTS = 50
SEED_ROWS = 100
TELLERS = 4
RATE = 80.0
VISIBILITY_S = 5
HEALS_S = 40.0
ANSWERED = 'balance_requests_total{endpoint="balance",outcome="OK"}'
DISTURBED_S = 10.0
"""Seconds in which visibilities end early after an event that ADR 15 names."""
EARLY_S = 1.0
"""After a restart of the server a visibility may end a second early (ADR 15)."""


async def run(plan: Plan, servers: Servers, folder: Path) -> tuple[History, Stored]:
    """Run the plan on the session's DynamoDB engine and a nats-server of its own."""
    random.seed(plan.seed)
    history = History()
    async with AsyncExitStack() as stack:
        outer = await stack.enter_async_context(make_world(servers, folder))
        world, server = await stack.enter_async_context(own_server(outer, folder / "nats-server"))
        table = await stack.enter_async_context(faulty_dynamodb(servers.dynamodb_env))
        bank = Bank([f"b{number}" for number in range(CLIENTS)])
        world.put_rows(dict.fromkeys(bank.clients, OPENING))
        await set_ack_wait(world, plan.ack_wait_s)
        slots = await _slots(stack, world, table, plan, folder)
        system = System(world, server, table, slots, asyncio.Lock())
        for slot in slots.values():
            slot.start(history)
        stack.push_async_callback(_stop, slots)
        if not plan.early:
            await _all_ready(slots)
        clients = Clients(early_s=EARLY_S if any(f.kind.startswith("server") for f in plan.faults) else 0.0)
        work = Work(history, [str(number) for number in range(1, SEED_ROWS + 1)])
        async with AsyncExitStack() as working:
            connection = await working.enter_async_context(world.client())
            registrar = await working.enter_async_context(world.client("registrar"))
            teller = await working.enter_async_context(world.client("teller"))
            channel = await working.enter_async_context(grpc.aio.insecure_channel(slots["queue"].env["QUEUE_LISTEN"]))
            asking = [
                asyncio.create_task(work.ask_for_balances(connection, RATE)),
                asyncio.create_task(work.create(registrar)),
                *(asyncio.create_task(bank.teller(teller)) for _ in range(TELLERS)),
            ]
            if not plan.early:
                await working.enter_async_context(
                    clients.working((channel,), delete, delete_after(1.0), visibility_s=VISIBILITY_S)
                )
            ended_s = await _disturb(plan, system)
            await _all_ready(slots)
            await eventually(lambda: bool(work.right_s) and work.right_s[-1] > max(ended_s.values(), default=0),
                             within_s=HEALS_S, what="a right answer after the last fault")  # fmt: skip
            work.closing.set()
            bank.closing.set()
            await asyncio.wait_for(asyncio.gather(*asking), HEALS_S)
        _recoveries(plan, ended_s, work, history)
        cut = [fault for fault in plan.faults if fault.kind in (*OF_CONNECTIONS, *OF_SERVERS)]
        history.cut_off = {name for name in slots if any(fault.target in ("", name) for fault in cut)}
        # ADR 15: a killed nats-server may have forgotten deliveries and acknowledgements of its last moments.
        # ADR 15: an edit of `ack_wait` moves the end of each visibility that is out.
        since_s = [ended_s[fault] for fault in plan.faults if fault.kind in {"server kill", "consumer edited"}]
        since_s += [ended_s[fault] - fault.lasts_s for fault in plan.faults if fault.kind == "consumer edited"]
        history.queue_violations += [
            text for at_s, text in clients.violations_at if not any(-1 <= at_s - s <= DISTURBED_S for s in since_s)
        ]
        history.odd_answers += bank.odd
        history.adjusted.update(bank.answers)
        await _ready_and_answering(world, slots, history)
        stored = await _stored(world, slots, bank, history)
        history.memory_mib = {name: slot.memory_mib() for name, slot in slots.items()}
    history.logs = {name: slot.log.read_text(errors="replace") for name, slot in slots.items()}
    return history, stored


async def _slots(
    stack: AsyncExitStack, world: World, table: FaultyDynamoDB, plan: Plan, folder: Path
) -> dict[str, Slot]:
    adjustments = await world.with_adjustments()
    await dynamodb.create_table(f"{world.table}-events", world.servers.dynamodb_env,
                                (archive.PARTITION_KEY, archive.SORT_KEY))  # fmt: skip
    common = {"LOG_FORMAT": "json", "SHUTDOWN_TIMEOUT": str(plan.shutdown_s), **table.env, **one_authority()}
    of_role: dict[str, dict[str, str]] = {
        "customer": {**adjustments, "SEED_ROWS": str(SEED_ROWS)},
        "archive": {"ARCHIVE_SOURCE": f"jetstream:{STREAM}", "ARCHIVE_TABLE": f"{world.table}-events",
                    "IDLE_EXIT": "0"},
        "queue": {"QUEUE": f"jetstream:{STREAM}", "QUEUE_LISTEN": f"127.0.0.1:{claim_port(0, '')}",
                  "QUEUE_MAX_DELIVER": "1000"},
    }  # fmt: skip
    users = {"customer": customer.USER, "archive": archive.USER, "queue": queue.USER}
    slots = {}
    for name in ("customer-0", "customer-1", "archive", "queue"):
        role = name.partition("-")[0]
        between, url = await stack.enter_async_context(network(world.nats_url))
        env = {**service_env(url, world.creds(users[role]), world.table, table.env), **common, **of_role[role]}
        slots[name] = Slot(name, role, _known(role, env), between, folder / f"{name}.log")
    return slots


def _known(role: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what is another role's."""
    return {name: value for name, value in env.items() if role == "customer" or name != "DDB_TABLE"}


async def _disturb(plan: Plan, system: System) -> dict[Fault, float]:
    """Apply each fault at its time; return when each ended."""
    started_s, ended_s = time.monotonic(), dict[Fault, float]()

    async def one(fault: Fault) -> None:
        await asyncio.sleep(max(0.0, started_s + fault.at_s - time.monotonic()))
        async with applied(system, fault):
            await asyncio.sleep(fault.lasts_s)
        ended_s[fault] = time.monotonic()

    await asyncio.gather(*map(one, plan.faults))
    await asyncio.sleep(max(0.0, started_s + plan.seconds - time.monotonic()))
    return ended_s


def _recoveries(plan: Plan, ended_s: Mapping[Fault, float], work: Work, history: History) -> None:
    """Note how long each fault's recovery took, unless another began meanwhile."""
    for fault in plan.faults:
        seconds = work.recovered_s(ended_s[fault])
        began_s, until_s = ended_s[fault] - fault.lasts_s, ended_s[fault] + (seconds or 0.0)
        others = [(ended_s[other] - other.lasts_s, ended_s[other]) for other in plan.faults if other is not fault]
        if seconds is not None and not any(start < until_s and end > began_s for start, end in others):
            history.recoveries.append(Recovery(fault.kind, seconds))


async def _all_ready(slots: Mapping[str, Slot]) -> None:
    async def all_are() -> bool:
        async with aiohttp.ClientSession() as http:
            for slot in slots.values():
                try:
                    async with asyncio.timeout(2), http.get(f"{slot.health_url}/readyz") as response:
                        if response.status != 200:
                            return False
                except (aiohttp.ClientError, TimeoutError):
                    return False
        return True

    await eventually(all_are, within_s=HEALS_S, what="every process ready again")


async def _ready_and_answering(world: World, slots: Mapping[str, Slot], history: History) -> None:
    """Ask each task that says it is ready, by its own id."""
    async with world.client() as client:
        for number in range(1, 21):
            try:
                await client.request(customer.SUBJECT, orjson.dumps({"client_id": str(number)}), timeout=5)
            except nats.errors.Error as error:
                history.readiness.append(f"all tasks are ready, and a request got {type(error).__name__}")


async def _stored(world: World, slots: Mapping[str, Slot], bank: Bank, history: History) -> Stored:
    async def quiet() -> bool:
        try:
            async with asyncio.timeout(5), world.administrator() as admin:
                info = await admin.consumer_info(STREAM, archive.CONSUMER)
                return backlog(info) == 0 and not await _pending(slots)
        except (nats.errors.Error, APIError, TimeoutError):
            return False

    await eventually(quiet, within_s=HEALS_S + 30, what="an archive with nothing left, and no event pending")
    stored = Stored(rows=world.rows(), ledger=world.ledger(), opening=OPENING * CLIENTS, bank=bank.clients)
    async with world.administrator() as admin:
        stored.events = await _events(admin)
    pages = dynamodb.client(world.servers.dynamodb_env).get_paginator("scan").paginate(
        TableName=f"{world.table}-events")  # fmt: skip
    stored.archived = [
        {name: next(iter(value.values())) for name, value in row.items()} for page in pages for row in page["Items"]
    ]
    if not {one.name for one in history.ended} & {slot.name for slot in _customers(slots)}:
        stored.answered = round(sum([await _sample(slot, ANSWERED) for slot in _customers(slots)]))
    return stored


async def _pending(slots: Mapping[str, Slot]) -> float:
    """Return how many events of the tasks are not acknowledged yet."""
    return sum([await _sample(slot, "balance_events_pending") for slot in _customers(slots)])


def _customers(slots: Mapping[str, Slot]) -> list[Slot]:
    return [slot for name, slot in slots.items() if name.startswith("customer")]


async def _sample(slot: Slot, line: str) -> float:
    """Return the sum of the samples of the task's metrics whose line begins so."""
    async with aiohttp.ClientSession() as http, http.get(f"{slot.health_url}/metrics") as response:
        text = await response.text()
    return sum(float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line))


async def _events(admin: JetStreamContext) -> list[tuple[int, str, str, bytes]]:
    """Return every event in the stream, by a consumer of its own."""
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30)
    reader = await admin.pull_subscribe("", stream=STREAM, config=config)
    left = (await admin.stream_info(STREAM)).state.messages
    found: list[tuple[int, str, str, bytes]] = []
    while len(found) < left:
        for message in await reader.fetch(min(500, left - len(found)), timeout=10):
            headers: Mapping[str, Any] = message.headers or {}
            found.append(
                (message.metadata.sequence.stream, message.subject, headers.get("Nats-Msg-Id", ""), message.data)
            )
    return found


async def _stop(slots: Mapping[str, Slot]) -> None:
    await asyncio.gather(*(slot.stop() for slot in slots.values()))
