"""What each kind of fault does to the system, and how it ends."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats.errors
from aiohttp import web
from botocore.exceptions import ClientError
from nats.js.errors import APIError

from control_plane.errors import ProvisioningError
from local import dynamodb
from service.contracts import queue
from service.contracts.stream import STREAM
from service.runtime.cancel import cancel
from tests.nemesis.plan import Fault
from tests.nemesis.processes import Slot
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal, stall
from tests.support.own_servers import OwnServer
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
    server: OwnServer
    table: FaultyDynamoDB
    slots: Mapping[str, Slot]
    busy: asyncio.Lock
    """Held by the fault that stops the server: there is but one."""


@asynccontextmanager
async def applied(system: System, fault: Fault) -> AsyncIterator[None]:
    """Apply the fault meanwhile."""
    if fault.kind.startswith("server"):
        async with _server(system, fault):
            yield
    elif fault.kind.startswith("table"):
        async with _table(system, fault.kind):
            yield
    elif fault.target:
        async with _of_slot(system.slots[fault.target], fault):
            yield
    else:
        async with _stream(system, fault.kind):
            yield


@asynccontextmanager
async def _of_slot(slot: Slot, fault: Fault) -> AsyncIterator[None]:
    network = slot.network
    at_once: dict[str, Callable[[], None]] = {"kill": slot.kill, "terminate": slot.terminate, "reset": network.reset}
    meanwhile: dict[str, Callable[[], AbstractAsyncContextManager[None]]] = {
        "freeze": slot.frozen,
        "cut": network.cut,
        "stall": network.stalled,
        "one way": network.one_way,
        "slow": lambda: _slow(slot),
        "flap": lambda: _flapping(slot),
    }
    if fault.kind in at_once:
        at_once[fault.kind]()
        yield
    else:
        async with meanwhile[fault.kind]():
            yield


@asynccontextmanager
async def _slow(slot: Slot) -> AsyncIterator[None]:
    slot.network.answer_s = SLOW_S
    try:
        yield
    finally:
        slot.network.answer_s = 0.0


@asynccontextmanager
async def _flapping(slot: Slot) -> AsyncIterator[None]:
    async def flap() -> None:
        while True:
            slot.network.reset()
            await asyncio.sleep(FLAP_S)

    flapping = asyncio.create_task(flap())
    try:
        yield
    finally:
        await cancel(flapping)


@asynccontextmanager
async def _server(system: System, fault: Fault) -> AsyncIterator[None]:
    async with system.busy:
        child = system.server.child
        if fault.kind == "server freeze":
            child.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                child.signal(signal.SIGCONT)
            return
        if fault.kind == "server stop":
            await system.server.stop()
        elif fault.kind == "server kill":
            child.signal(signal.SIGKILL)
            await child.wait()
            await system.server.stop()
        else:
            child.signal(signal.SIGUSR2)  # lame duck: it ends by itself, after telling its clients
        try:
            yield
        finally:
            if fault.kind == "server lame duck":
                await system.server.stop()
            await system.server.start()


@asynccontextmanager
async def _table(system: System, kind: str) -> AsyncIterator[None]:
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
    system.table.fault = lambda action, call: make(action, call) if chance.random() < SHARE else None
    try:
        yield
    finally:
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
async def _stream(system: System, kind: str) -> AsyncIterator[None]:
    if kind == "stream full":
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
