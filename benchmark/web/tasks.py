"""Make a line per task of the service, from two successive `$SRV.STATS` answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client

from service.contracts.customer import SERVICE_NAME
from service.nats.discovery import instances


@dataclass(frozen=True)
class TaskLine:
    id: str
    requests_per_s: float
    in_flight: int
    time_without_credit: float | None
    """Share of the time, 0 to 1; None if the task does not report it."""
    errors: int


class Tasks:
    """Reads the statistics; each line covers the time since the last call of `lines`."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._before: dict[str, tuple[float, int]] = {}

    async def lines(self) -> list[TaskLine]:
        answers = {answer["id"]: answer for answer in await instances(self._nc, SERVICE_NAME)}
        now, lines, seen = time.monotonic(), [], {}
        for task, answer in answers.items():
            requests = sum(endpoint["num_requests"] for endpoint in answer["endpoints"])
            at, was = self._before.get(task, (now, requests))
            seen[task] = now, requests
            lines.append(
                TaskLine(
                    id=task,
                    requests_per_s=(requests - was) / (now - at) if now > at else 0.0,
                    in_flight=sum(_data(endpoint).get("in_flight", 0) for endpoint in answer["endpoints"]),
                    time_without_credit=_without_credit(answer),
                    errors=sum(endpoint["num_errors"] for endpoint in answer["endpoints"]),
                )
            )
        self._before = seen
        return lines


def _without_credit(answer: Mapping[str, Any]) -> float | None:
    said = [_data(endpoint).get("time_without_credit") for endpoint in answer["endpoints"]]
    return max((float(share) for share in said if share is not None), default=None)


def _data(endpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    data = endpoint.get("data")
    return data if isinstance(data, dict) else {}
