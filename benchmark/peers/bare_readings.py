"""A plain consumer of the devices' readings: nats-py fetches and acknowledges.

With DEVICES_TABLE it also writes the role's rows, with the role's writer, before it acknowledges.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import uvloop
from nats.aio.msg import Msg

from benchmark.peers.plain import from_environment
from service.contracts import devices as contract
from service.devices.reading import ReadingRows
from service.dynamodb.writer import MAX_ITEMS, Writer
from service.sources.jetstream.message import arrival, delivered
from service.writing.archiver import BATCHES

FETCH: Final = MAX_ITEMS * BATCHES


class Rows:
    """Writes the same rows as the role."""

    def __init__(self, table: str) -> None:
        self._writer = Writer(table, contract.PARTITION_KEY, contract.SORT_KEY, "DEVICES_TABLE")
        self._writer.open()
        self._make = ReadingRows("", 0, lambda *_: None).batch()

    async def write(self, messages: list[Msg]) -> None:
        arrived = [arrival(each.subject.encode(), each.reply.encode(), each.data, b"") for each in messages]
        rows = list(map(self._make, delivered(arrived, 0, 0)))
        starts = range(0, len(rows), MAX_ITEMS)
        results = await asyncio.gather(*(self._writer.write(rows[start : start + MAX_ITEMS]) for start in starts))
        if sum(len(result.written) for result in results) != len(rows):
            raise SystemExit(f"rows were left: {results[0].problem}")


async def main() -> None:
    """Serve until a signal ends the process: unacknowledged messages are redelivered."""
    nc = await from_environment(contract.INBOX_PREFIX)
    consumer = await nc.jetstream().pull_subscribe_bind(contract.DATA_CONSUMER, contract.MQTT_STREAM)
    table = os.environ.get("DEVICES_TABLE")
    rows = Rows(table) if table else None
    while True:
        try:
            messages = await consumer.fetch(FETCH)
        except TimeoutError:
            continue
        if rows:
            await rows.write(messages)
        for msg in messages:
            await msg.ack()


if __name__ == "__main__":
    uvloop.run(main())
