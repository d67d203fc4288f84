"""Read the instances' statistics (`$SRV.STATS`), and compute each instance's share of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nats.aio.client import Client

from benchmark.report.result import TaskShare
from service.contracts.customer import SERVICE_NAME
from service.nats.discovery import instances


@dataclass(frozen=True)
class Statistics:
    requests: int
    errors: int
    processing_ns: int


async def statistics(nc: Client) -> Mapping[str, Statistics]:
    """Return instance id -> its statistics; empty if none answers."""
    return {
        answer["id"]: Statistics(
            requests=sum(endpoint["num_requests"] for endpoint in answer["endpoints"]),
            errors=sum(endpoint["num_errors"] for endpoint in answer["endpoints"]),
            processing_ns=sum(endpoint["processing_time"] for endpoint in answer["endpoints"]),
        )
        for answer in await instances(nc, SERVICE_NAME)
    }


def split(before: Mapping[str, Statistics], after: Mapping[str, Statistics]) -> list[TaskShare]:
    """Return what each instance did between the two readings."""
    shares = []
    for instance, now in sorted(after.items()):
        was = before.get(instance, Statistics(0, 0, 0))
        requests = now.requests - was.requests
        processing_ms = (now.processing_ns - was.processing_ns) / 1e6
        shares.append(
            TaskShare(
                id=instance,
                requests=requests,
                errors=now.errors - was.errors,
                processing_ms=processing_ms / requests if requests else 0.0,
            )
        )
    return shares
