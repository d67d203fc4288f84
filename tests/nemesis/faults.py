"""What each kind of fault does to the system, and how it ends."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from aiohttp import web
from botocore.exceptions import ClientError
from nats.js.errors import APIError

from control_plane.errors import ProvisioningError
from local.servers import dynamodb
from service.contracts import queue
from service.contracts.stream import STREAM
from service.runtime.cancel import cancel
from tests.nemesis.credentials import Credentials
from tests.nemesis.nodes import Nodes
from tests.nemesis.plan import OF_CREDENTIALS, OF_NODES, OF_PARTITIONS, OF_SERVERS, OF_STREAMS, OF_TABLES, Fault
from tests.nemesis.processes import Slot
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal, stall
from tests.support.network import Network
from tests.support.world import World, eventually

FLAP_S = 0.25
SLOW_S = 0.3
FULL = -2
"""As many messages as the stream has."""
SHARE = 0.3
"""Of the calls of DynamoDB, while a fault of the table lasts."""


@dataclass
class System:
    """All that can be disturbed."""

    world: World
    nodes: Nodes
    table: FaultyDynamoDB
    slots: Mapping[str, Slot]
    credentials: Credentials
    turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """By kind and target: a fault that began twice at a time could not be undone."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a fault of the servers, and while the account changes: each server must hear of that."""


@asynccontextmanager
async def applied(system: System, fault: Fault) -> AsyncIterator[None]:
    """Apply the fault meanwhile."""
    of_kinds: tuple[tuple[tuple[str, ...], Callable[[System, Fault], AbstractAsyncContextManager[None]]], ...] = (
        ((*OF_SERVERS, *OF_NODES), _server),
        (OF_PARTITIONS, _partition),
        (OF_TABLES, _table),
        (OF_STREAMS, _stream),
        (OF_CREDENTIALS, _credentials),
    )
    apply = next((apply for kinds, apply in of_kinds if fault.kind in kinds), _of_slot)
    async with system.turns[f"{fault.kind} {fault.target}"], apply(system, fault):
        yield


@asynccontextmanager
async def _of_slot(system: System, fault: Fault) -> AsyncIterator[None]:
    slot = system.slots[fault.target]
    at_once: dict[str, Callable[[], None]] = {"kill": slot.kill, "terminate": slot.terminate, "reset": slot.reset}
    meanwhile: dict[str, Callable[[Network], AbstractAsyncContextManager[None]]] = {
        "cut": Network.cut,
        "stall": Network.stalled,
        "one way": Network.one_way,
        "slow": _slow,
        "flap": _flapping,
    }
    async with AsyncExitStack() as stack:
        if fault.kind in at_once:
            at_once[fault.kind]()
        elif fault.kind == "freeze":
            await stack.enter_async_context(slot.frozen())
        else:
            contexts = [meanwhile[fault.kind](network) for network in slot.networks]
            await asyncio.gather(*map(stack.enter_async_context, contexts))
        yield


@asynccontextmanager
async def _slow(network: Network) -> AsyncIterator[None]:
    network.answer_s = SLOW_S
    try:
        yield
    finally:
        network.answer_s = 0.0


@asynccontextmanager
async def _flapping(network: Network) -> AsyncIterator[None]:
    async def flap() -> None:
        while True:
            network.reset()
            await asyncio.sleep(FLAP_S)

    flapping = asyncio.create_task(flap())
    try:
        yield
    finally:
        await cancel(flapping)


@asynccontextmanager
async def _server(system: System, fault: Fault) -> AsyncIterator[None]:
    nodes, number, how = system.nodes, _number(fault), fault.kind.partition(" ")[2]
    async with system.busy:
        if how == "freeze":
            nodes.signal(number, signal.SIGSTOP)
            try:
                yield
            finally:
                nodes.signal(number, signal.SIGCONT)
            return
        if how == "lame duck":
            nodes.signal(number, signal.SIGUSR2)  # it ends by itself, after telling its clients
        else:
            if how == "kill":
                nodes.signal(number, signal.SIGKILL)
            await nodes.stop(number)
        try:
            yield
        finally:
            if how == "lame duck":
                await nodes.stop(number)
            await nodes.start(number)


@asynccontextmanager
async def _partition(system: System, fault: Fault) -> AsyncIterator[None]:
    async with system.busy, system.nodes.apart([_number(fault)] if fault.target else range(len(system.nodes))):
        yield


def _number(fault: Fault) -> int:
    """Return the number of the server that the fault is of."""
    return int(fault.target.rpartition("-")[2]) if fault.target else 0


@asynccontextmanager
async def _credentials(system: System, fault: Fault) -> AsyncIterator[None]:
    """Give the tasks new credentials: the old are void after a roll of the tasks, or at once."""
    tasks = [slot for name, slot in system.slots.items() if name.startswith("customer")]
    is_rolled = fault.kind == "credentials rotated"
    async with system.busy:
        new, void_old = await system.credentials.new(keep_old=is_rolled)
    for slot in tasks:
        slot.env = {**slot.env, "NATS_CREDENTIALS": new}
    for slot in tasks if is_rolled else ():
        await slot.rolled()
    yield
    async with system.busy:
        await void_old()


@asynccontextmanager
async def _table(system: System, fault: Fault) -> AsyncIterator[None]:
    kind = fault.kind
    if kind == "table refused":
        async with system.table.refusing():
            yield
        return
    chance = random.Random(kind)
    make: Callable[[str, Call], Any] = {
        "table throttled": lambda *_: refusal("ThrottlingException"),
        "table 500": lambda *_: web.Response(status=500),
        "table 500 after write": _after_write(system.world),
        "table half": _half,
        "table slow": stall(SLOW_S),
        "table silent": stall(5.0),
    }[kind]

    def sometimes(action: str, call: Call) -> Any:
        return make(action, call) if chance.random() < SHARE else None

    system.table.fault = sometimes
    try:
        yield
    finally:
        if system.table.fault is sometimes:  # else another kind replaced it
            system.table.fault = None


def _after_write(world: World) -> Callable[[str, Call], Any]:
    async def fault(action: str, call: Call) -> web.Response | None:
        writes = {"PutItem": "put_item", "TransactWriteItems": "transact_write_items",
                  "BatchWriteItem": "batch_write_item"}  # fmt: skip
        if action not in writes:
            return None
        try:
            engine = dynamodb.client(world.servers.dynamodb_env)
            await asyncio.to_thread(getattr(engine, writes[action]), **call)
        except ClientError:
            return None  # it would have been refused
        return web.Response(status=500)

    return fault


def _half(action: str, call: Call) -> web.Response | None:
    """Leave half of a batch's writes undone: nothing is written, and the rest is asked again."""
    if action == "BatchWriteItem":
        return web.json_response({"UnprocessedItems": call["RequestItems"]},
                                 content_type="application/x-amz-json-1.0")  # fmt: skip
    return None


@asynccontextmanager
async def _stream(system: System, fault: Fault) -> AsyncIterator[None]:
    if fault.kind == "stream full":
        state = await _edit(system, max_msgs=FULL, discard="new")
    else:
        state = await _edit(system, ack_wait=2)
    try:
        yield
    finally:
        await _edit(system, **state)


async def _edit(system: System, **changes: Any) -> dict[str, Any]:
    """Change the stream, or the queue's consumer; return what was before. While the server is away, again."""
    before: dict[str, Any] = {}

    async def edited() -> bool:
        try:
            async with asyncio.timeout(2), system.world.administrator() as admin:
                if "ack_wait" in changes:
                    config: Any = (await admin.consumer_info(STREAM, queue.CONSUMER)).config
                    before.update({name: getattr(config, name) for name in changes if name not in before})
                    await admin.add_consumer(STREAM, config.evolve(**changes))
                else:
                    info = await admin.stream_info(STREAM)
                    config = info.config
                    if changes.get("max_msgs") == FULL:
                        changes["max_msgs"] = max(1, info.state.messages)
                    before.update({name: getattr(config, name) for name in changes if name not in before})
                    await admin.update_stream(config.evolve(**changes))
        except (ProvisioningError, nats.errors.Error, APIError, TimeoutError, OSError):
            return False
        return True

    await eventually(edited, within_s=30, what="a change of the stream")
    return before
