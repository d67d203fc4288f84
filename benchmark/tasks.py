"""The tasks that answer: what `$SRV.STATS` (ADR-32) says of each, and what it says more after a load than before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nats.errors
import orjson
from nats.aio.client import Client

from benchmark.result import TaskShare
from service.customer import contract

QUIET_S = 0.5
"""When no further task answers for so long, all have."""
FIRST_S = 2.0


@dataclass(frozen=True)
class Statistics:
    requests: int
    errors: int
    processing_ns: int


async def statistics(client: Client, service: str = contract.SERVICE_NAME) -> Mapping[str, Statistics]:
    """Every task's numbers, by its id; empty when none answers."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    found: dict[str, Statistics] = {}
    try:
        await client.publish(f"$SRV.STATS.{service}", b"", reply=inbox)
        while True:
            msg = await answers.next_msg(timeout=QUIET_S if found else FIRST_S)
            if not msg.data:
                break  # no responders
            answer = orjson.loads(msg.data)
            endpoints = answer["endpoints"]
            found[answer["id"]] = Statistics(
                requests=sum(endpoint["num_requests"] for endpoint in endpoints),
                errors=sum(endpoint["num_errors"] for endpoint in endpoints),
                processing_ns=sum(endpoint["processing_time"] for endpoint in endpoints),
            )
    except nats.errors.TimeoutError:
        return found
    finally:
        await answers.unsubscribe()
    return found


def split(before: Mapping[str, Statistics], after: Mapping[str, Statistics]) -> list[TaskShare]:
    """What each task did between the two."""
    shares = []
    for task, now in sorted(after.items()):
        was = before.get(task, Statistics(0, 0, 0))
        requests = now.requests - was.requests
        processing_ms = (now.processing_ns - was.processing_ns) / 1e6
        shares.append(
            TaskShare(
                id=task,
                requests=requests,
                errors=now.errors - was.errors,
                processing_ms=processing_ms / requests if requests else 0.0,
            )
        )
    return shares
