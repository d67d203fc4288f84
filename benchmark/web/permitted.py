"""Check that the user of a load may send its requests, before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import ADJUST, CREATE, ENDPOINTS
from benchmark.load.job import NatsTarget, Target
from benchmark.load.transport import connected
from service.nats.client import roundtrip

WRITING: Final = {ADJUST, CREATE}


async def check_permitted(target: Target, endpoints: Iterable[str]) -> None:
    """Raise `BenchmarkError` if the server refuses requests to one of these endpoints.

    It asks for client 1. Requests to `create` and `adjust` are empty: the service refuses them, and nothing is written.
    A gateway is not checked: what it refuses is among the load's errors.
    """
    if not isinstance(target, NatsTarget):
        return
    denied: list[str] = []
    async with connected(target, denied.append) as client:
        for name in endpoints:
            payload = b"" if name in WRITING else ENDPOINTS[name].request("1", "1")
            await client.publish(ENDPOINTS[name].subject, payload, reply=client.new_inbox())
        await roundtrip(client)
    if denied:
        raise BenchmarkError(denied[0])
