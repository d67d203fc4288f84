"""One load, from its settings to its totals."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from benchmark import generators, instances
from benchmark.errors import BenchmarkError
from benchmark.generators import Totals
from benchmark.job import Job, Loop, NatsTarget, Target
from benchmark.result import TaskShare
from benchmark.show import Progress
from benchmark.transport import connected
from control_plane.aws import configured_region
from local.dynamodb import environment, rows, scan
from local.system import TABLE, Ports
from service.customer import contract

SEED: Final = 1
"""Seed of every random draw, so a load can be repeated."""


@dataclass(frozen=True)
class Plan:
    """What every load of one call has in common."""

    target: Target
    nats: NatsTarget | None
    """Where the tasks' statistics are asked for; None when only the gateway is known."""
    timeout_s: float
    ids: int
    zipf: float | None
    processes: int
    expected: dict[str, int] | None
    settings: dict[str, str]

    def job(self, loop: Loop) -> Job:
        return Job(
            target=self.target, subject=contract.SUBJECT, loop=loop, timeout_s=self.timeout_s, ids=self.ids,
            zipf=self.zipf, seed=SEED, expected=self.expected,
        )  # fmt: skip


async def one_load(
    plan: Plan, loop: Loop, console: Console, stop: asyncio.Event, label: str = ""
) -> tuple[Totals, list[TaskShare]]:
    """Run one load. Returns its totals and each task's share."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(plan.nats)) if plan.nats else None
        before = await instances.statistics(client) if client else {}
        if client and not before:
            raise BenchmarkError("no task answers $SRV.STATS.customer; is the service running, with these credentials?")
        progress = stack.enter_context(Progress(console, label))
        totals = await generators.run(
            plan.job(loop), processes=plan.processes, on_tick=lambda now: progress.update(now, loop), stop=stop
        )
        after = await instances.statistics(client) if client else {}
    if not totals.done and not totals.interrupted:
        raise BenchmarkError("no request was sent; give more --requests, or a longer --duration")
    return totals, instances.split(before, after)


def balances(*, local: bool) -> dict[str, int]:
    """Every balance of the table, to compare the replies with.

    Raises `BenchmarkError` when the table cannot be read.
    """
    table = os.environ.get("DDB_TABLE") or (TABLE if local else None)
    if table is None:
        raise BenchmarkError("--verify needs the table: set DDB_TABLE, and what the AWS SDK needs")
    try:
        if local and "AWS_ENDPOINT_URL_DYNAMODB" not in os.environ:
            return rows(table, environment(Ports.dynamodb))
        return scan(boto3.client("dynamodb", region_name=configured_region()), table)
    except (BotoCoreError, ClientError) as error:
        raise BenchmarkError(f"table {table} cannot be read: {error}") from None
