"""Find the running instances of a micro service with a `$SRV` request (ADR-32)."""

from __future__ import annotations

from typing import Any, Final

import nats.errors
import orjson
from nats.aio.client import Client

FIRST_S: Final = 2.0
QUIET_S: Final = 0.5
"""Collecting ends when no instance has answered for this long."""


async def instances(nc: Client, service: str, verb: str = "STATS") -> list[dict[str, Any]]:
    """Return the answers to `$SRV.<verb>.<service>`, sorted by id; empty when none comes within `FIRST_S` seconds."""
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox)
    found: list[dict[str, Any]] = []
    try:
        await nc.publish(f"$SRV.{verb}.{service}", b"", reply=inbox)
        while True:
            msg = await answers.next_msg(timeout=QUIET_S if found else FIRST_S)
            if not msg.data:
                break  # no responders
            found.append(orjson.loads(msg.data))
    except nats.errors.TimeoutError:
        pass
    finally:
        await answers.unsubscribe()
    return sorted(found, key=lambda answer: str(answer["id"]))
