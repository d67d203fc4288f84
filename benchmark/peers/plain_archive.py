"""The archive in its plainest form: nats-py's pull consumer, boto3's `batch_writer` in a thread."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import boto3
from nats.aio.msg import Msg

from benchmark.peers.plain import from_environment
from service.contracts import archive as contract

BATCH: Final = 100


def row_of(msg: Msg) -> dict[str, Any]:
    """Make the row that the archive makes from an event."""
    metadata, at = msg.metadata, msg.metadata.timestamp.isoformat()
    return {
        contract.PARTITION_KEY: msg.subject.rpartition(".")[2],
        contract.SORT_KEY: f"{at}#{metadata.sequence.stream}",
        "event_time": at,
        "archived_at": datetime.now(UTC).isoformat(),
        "host": "plain",
        "body": msg.data.decode(),
        "sequence": metadata.sequence.stream,
        "balance": json.loads(msg.data, parse_float=Decimal)["balance"],
        "Nats-Msg-Id": (msg.headers or {})["Nats-Msg-Id"],
    }


async def main() -> None:
    """Serve until a signal ends the process: unacknowledged messages are redelivered."""
    nc = await from_environment(contract.INBOX_PREFIX)
    consumer = await nc.jetstream().pull_subscribe_bind(contract.CONSUMER, contract.STREAM)
    table = boto3.resource("dynamodb", region_name=os.environ["AWS_REGION"]).Table(os.environ["ARCHIVE_TABLE"])

    def write(messages: list[Msg]) -> None:
        with table.batch_writer() as batch:
            for msg in messages:
                batch.put_item(Item=row_of(msg))

    while True:
        try:
            messages = await consumer.fetch(BATCH)
        except TimeoutError:
            continue
        await asyncio.to_thread(write, messages)
        await asyncio.gather(*(msg.ack() for msg in messages))


if __name__ == "__main__":
    asyncio.run(main())
