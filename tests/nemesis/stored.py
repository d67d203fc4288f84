"""What is stored once all is quiet, and what the tasks say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from local.servers import dynamodb
from service.contracts import archive
from service.contracts.stream import STREAM
from service.nats.jetstream import backlog
from tests.nemesis.checker.history import History, Stored
from tests.nemesis.processes import Slot
from tests.support.devices.world import DevicesWorld
from tests.support.ledger.bank import OPENING, Bank
from tests.support.world import World, eventually, get

QUIET_S = 70.0
ANSWERED = 'balance_requests_total{endpoint="balance",outcome="OK"}'


async def gather(
    world: World, devices: DevicesWorld, slots: Mapping[str, Slot], bank: Bank, history: History
) -> Stored:
    """Wait until nothing is pending; return what is stored then."""
    tasks = customers(slots)

    async def quiet() -> bool:
        try:
            async with world.administrator() as devices.admin:
                info = await devices.admin.consumer_info(STREAM, archive.CONSUMER)
                is_empty = backlog(info) == 0 and await devices.is_written()
                return is_empty and not sum([await sample(slot, "balance_events_pending") for slot in tasks])
        except (nats.errors.Error, APIError, TimeoutError):
            return False

    await eventually(quiet, within_s=QUIET_S, what="an archive and a backlog of readings with nothing left")
    stored = Stored(rows=world.rows(), ledger=world.ledger(), opening=OPENING * len(bank.clients), bank=bank.clients)
    stored.readings = devices.readings()
    async with world.administrator() as admin:
        stored.events = await _events(admin)
    pages = dynamodb.client(world.servers.dynamodb_env).get_paginator("scan").paginate(
        TableName=f"{world.table}-events")  # fmt: skip
    stored.archived = [
        {name: next(iter(value.values())) for name, value in row.items()} for page in pages for row in page["Items"]
    ]
    if not {one.name for one in history.ended} & {slot.name for slot in tasks}:
        stored.answered = round(sum([await sample(slot, ANSWERED) for slot in tasks]))
    return stored


def customers(slots: Mapping[str, Slot]) -> list[Slot]:
    return [slot for name, slot in slots.items() if name.startswith("customer")]


async def sample(slot: Slot, line: str) -> float:
    """Return the sum of the samples of the task's metrics whose line begins so."""
    _, text = await get(f"{slot.health_url}/metrics")
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
