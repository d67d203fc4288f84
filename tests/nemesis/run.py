"""One run of a plan: start everything, disturb it while clients work, let it heal, and gather what is stored."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from control_plane.files import Files
from service.runtime.cancel import cancel
from tests.nemesis.checker.history import History, Recovery, Span, Stored
from tests.nemesis.credentials import Credentials
from tests.nemesis.faults import System, applied
from tests.nemesis.nodes import own_nodes
from tests.nemesis.plan import OF_CLUSTERS, OF_CONNECTIONS, OF_CREDENTIALS, OF_SERVERS, OF_TABLES, Fault, Plan
from tests.nemesis.processes import SEED_ROWS, Slot, make_slots
from tests.nemesis.stored import ANSWERED, customers, gather, sample
from tests.nemesis.work import Work
from tests.support.devices.load import sending
from tests.support.devices.world import make_devices
from tests.support.dynamodb.faulty import faulty_dynamodb
from tests.support.ledger.bank import OPENING, Bank
from tests.support.queue.clients import Clients, delete, delete_after
from tests.support.queue.sidecar import set_ack_wait
from tests.support.world import Servers, World, eventually, make_world

CLIENTS = 50
TELLERS = 4
DEVICES = ("d0", "d1", "d2")
READING_EVERY_S = 0.05
RATE = 80.0
VISIBILITY_S = 5
HEALS_S = 40.0
KILLED = "server kill"
DISTURBED_S = 10.0
"""Seconds in which visibilities end early after an event that ADR 15 names."""
EARLY_S = 1.0
"""After a restart of the server, or a change of the leader, a visibility may end a second early (ADR 15)."""


async def run(plan: Plan, servers: Servers, folder: Path, mutant: str = "") -> tuple[History, Stored]:
    """Run the plan on the session's DynamoDB engine and nats-servers of its own; `mutant` in place of the service."""
    random.seed(plan.seed)
    history = History()
    async with AsyncExitStack() as stack:
        outer = await stack.enter_async_context(make_world(servers, folder))
        world, nodes = await stack.enter_async_context(own_nodes(outer, folder / "nats-server", plan.nodes))
        table = await stack.enter_async_context(faulty_dynamodb(servers.dynamodb_env))
        bank = Bank([f"b{number}" for number in range(CLIENTS)])
        world.put_rows(dict.fromkeys(bank.clients, OPENING))
        await set_ack_wait(world, plan.ack_wait_s)
        devices = await stack.enter_async_context(make_devices(world))
        devices.env = table.env
        await devices.shorten_ack_wait(plan.ack_wait_s)
        credentials = Credentials(world, nodes, Files(folder / "credentials"))
        slots = await make_slots(stack, world, devices, table, plan, folder, await credentials.first(), mutant)
        system = System(world, nodes, table, slots, credentials)
        for slot in slots.values():
            slot.start(history)
        stack.push_async_callback(_stop, slots)
        if not plan.early:
            await _all_ready(slots)
        clients = Clients(early_s=EARLY_S if any(f.kind in (*OF_SERVERS, *OF_CLUSTERS) for f in plan.faults) else 0.0)
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
            stack.push_async_callback(cancel, *asking)
            if not plan.early:
                await working.enter_async_context(
                    clients.working((channel,), delete, delete_after(1.0), visibility_s=VISIBILITY_S)
                )
            sent = await working.enter_async_context(sending(devices, DEVICES, READING_EVERY_S))
            ended_s = await _disturb(plan, system)
            await _all_ready(slots)
            await eventually(lambda: bool(work.right_s) and work.right_s[-1] > max(ended_s.values(), default=0),
                             within_s=HEALS_S, what="a right answer after the last fault")  # fmt: skip
            work.closing.set()
            bank.closing.set()
            await asyncio.wait_for(asyncio.gather(*asking), HEALS_S)
        history.readings = sent.readings()
        _recoveries(plan, ended_s, work, history)
        cut = [fault for fault in plan.faults if fault.kind in (*OF_CONNECTIONS, *OF_SERVERS)]
        history.cut_off = {name for name in slots if any(fault.target in ("", name) for fault in cut)}
        history.table_faults = _spans(plan, ended_s, OF_TABLES)
        if any(fault.kind in OF_CREDENTIALS for fault in plan.faults):
            history.voided = {slot.name for slot in customers(slots)}
        history.queue_violations += _violations(plan, ended_s, clients)
        history.odd_answers += bank.odd
        history.adjusted.update(bank.answers)
        await _ready_and_answering(world, slots, work, history)
        stored = await gather(world, devices, slots, bank, history)
        history.memory_mib = {name: slot.memory_mib() for name, slot in slots.items()}
    history.logs = {name: slot.log.read_text(errors="replace") for name, slot in slots.items()}
    return history, stored


def _spans(plan: Plan, ended_s: Mapping[Fault, float], kinds: Collection[str]) -> list[Span]:
    """Return when each fault of these kinds was there."""
    faults = [fault for fault in plan.faults if fault.kind in kinds]
    return [(ended_s[fault] - (fault.kind != KILLED) * fault.lasts_s, ended_s[fault]) for fault in faults]


def _violations(plan: Plan, ended_s: Mapping[Fault, float], clients: Clients) -> list[str]:
    """Return the queue's broken promises, without those that an ADR names, by their time."""

    def disturbed(at_s: float, kinds: tuple[str, ...]) -> bool:
        return any(start - 1 <= at_s <= end + DISTURBED_S for start, end in _spans(plan, ended_s, kinds))

    # ADR 15: "killed within 0.1 s, a single nats-server forgets acknowledgements that it had confirmed"
    # ADR 15: "An edit of `ack_wait` moves the end of each visibility that is out"
    exempt = (KILLED, "consumer edited")
    early = (*exempt, *OF_CLUSTERS)  # ADR 15: after "a change of the leader ... may also have forgotten deliveries"
    return [
        text
        for at_s, text in clients.violations_at
        if not disturbed(at_s, exempt if "after its deletion" in text else early)
    ]


async def _disturb(plan: Plan, system: System) -> dict[Fault, float]:
    """Apply each fault at its time; return when each ended."""
    started_s, ended_s = time.monotonic(), dict[Fault, float]()

    async def one(fault: Fault) -> None:
        await asyncio.sleep(max(0.0, started_s + fault.at_s - time.monotonic()))
        async with applied(system, fault):
            await asyncio.sleep(fault.lasts_s)
        ended_s[fault] = time.monotonic()

    async with asyncio.TaskGroup() as group:
        for fault in plan.faults:
            group.create_task(one(fault))
    await asyncio.sleep(max(0.0, started_s + plan.seconds - time.monotonic()))
    return ended_s


def _recoveries(plan: Plan, ended_s: Mapping[Fault, float], work: Work, history: History) -> None:
    """Note how long each fault's recovery took, unless another began meanwhile, or had not been recovered from."""
    for fault in plan.faults:
        seconds = work.recovered_s(ended_s[fault])
        began_s, until_s = ended_s[fault] - fault.lasts_s, ended_s[fault] + (seconds or 0.0)
        others = [(ended_s[other] - other.lasts_s, ended_s[other] + (work.recovered_s(ended_s[other]) or 0.0))
                  for other in plan.faults if other is not fault]  # fmt: skip
        if seconds is not None and not any(start < until_s and end > began_s for start, end in others):
            history.recoveries.append(Recovery(fault.kind, seconds))


async def _all_ready(slots: Mapping[str, Slot]) -> None:
    async def all_are() -> bool:
        return all([await slot.is_ready() for slot in slots.values()])

    await eventually(all_are, within_s=HEALS_S, what="every process ready again")


async def _ready_and_answering(world: World, slots: Mapping[str, Slot], work: Work, history: History) -> None:
    """Ask at each server, which prefers the tasks that are connected to it, and expect each task to answer some."""
    before = {slot: await sample(slot, ANSWERED) for slot in customers(slots)}
    for url in world.nats_url.split(","):
        async with world.at(url).client() as client:
            codes = [await work.balance(client, str(number)) for number in range(1, SEED_ROWS + 1)]
        history.readiness += [f"all tasks are ready, and a request got {code}" for code in codes if code != "OK"]
    history.readiness += [
        f"{slot.name} is ready, and answers nothing"
        for slot, count in before.items()
        if await sample(slot, ANSWERED) == count
    ]


async def _stop(slots: Mapping[str, Slot]) -> None:
    await asyncio.gather(*(slot.stop() for slot in slots.values()))
