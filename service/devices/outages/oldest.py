"""The age of the oldest outage that no process has reported, read from the consumer.

It does not depend on the process that holds the reporter's lock: if none holds it, none reports, and that must show.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Final

import nats.errors
import orjson
import structlog

from service.contracts import devices as contract
from service.devices.presence.stream import NO_MESSAGE
from service.nats.client import NatsClient
from service.runtime.logs import Repeated

_unknown: Final = Repeated(structlog.get_logger("service.devices"), "the age of the oldest outage is not known")

LOOK_S: Final = 5.0
ANSWER_S: Final = 2.0
_CONSUMER: Final = f"$JS.API.CONSUMER.INFO.{contract.OUTAGES_STREAM}.{contract.WEBHOOK_CONSUMER}"
_GET: Final = f"$JS.API.STREAM.MSG.GET.{contract.OUTAGES_STREAM}"


class OldestOutage:
    """Reads the consumer every `LOOK_S` seconds. While NATS does not answer, the last known outage grows older."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = None
        """When it was stored, on the loop's clock; None if all are reported."""

    def age_s(self) -> float:
        """Return its age in seconds; 0 if all are reported."""
        return 0.0 if self._since_s is None else max(0.0, self._loop.time() - self._since_s)

    async def run(self) -> None:
        while True:
            try:
                self._since_s = await self._look()
            except (nats.errors.Error, LookupError, TypeError, ValueError) as error:
                _unknown.warning("", error=str(error) or type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> float | None:
        info = await self._ask(_CONSUMER)
        if not info["num_pending"] + info["num_ack_pending"]:
            return None
        asked = orjson.dumps({"seq": info["ack_floor"]["stream_seq"] + 1, "next_by_subj": f"{contract.EVENT_PREFIX}>"})
        found = await self._ask(_GET, asked)
        if not found:
            return None
        age = datetime.fromisoformat(info["ts"]) - datetime.fromisoformat(found["message"]["time"])
        return self._loop.time() - age.total_seconds()

    async def _ask(self, subject: str, request: bytes = b"") -> dict[str, Any]:
        """Return JetStream's answer; empty if there is no such message. Raise `ValueError` for any other error."""
        answer: dict[str, Any] = orjson.loads((await self._nc.request(subject, request, timeout=ANSWER_S)).data)
        if error := answer.get("error"):
            if error.get("err_code") == NO_MESSAGE:
                return {}
            raise ValueError(error.get("description", "an error without a description"))
        return answer
