"""Run one load, from its settings to its totals."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from benchmark import instances
from benchmark.errors import BenchmarkError
from benchmark.load import generators
from benchmark.load.endpoints import ADJUST, BALANCE, ENDPOINTS, mix_text, parse_mix
from benchmark.load.job import ENDLESS, Closed, Frames, Job, Loop, NatsTarget, Target
from benchmark.load.totals import Totals
from benchmark.load.transport import connected
from benchmark.options import LoadOptions
from benchmark.report.result import CHECKED, TaskShare
from benchmark.report.show import Progress
from benchmark.report.thresholds import duration_s
from benchmark.target import TOKEN_VARIABLE, gateway_target, nats_target
from control_plane.aws import configured_region
from control_plane.desired import CLIENT, GATEWAY, REGISTRAR, TELLER
from control_plane.resources import User
from local.servers.dynamodb import environment, rows, scan
from local.system import TABLE, Ports
from service.contracts.customer import BALANCE_ATTRIBUTE, KEY_ATTRIBUTE, Attributes

ENDPOINT: Final = "AWS_ENDPOINT_URL_DYNAMODB"
SEED: Final = 1
"""Seed of every random draw, so that a load can be repeated."""


@dataclass(frozen=True)
class Plan:
    """What all loads of one command have in common."""

    target: Target
    nats: NatsTarget | None
    """Where to read the tasks' statistics; None if only the gateway is known."""
    timeout_s: float
    ids: int
    zipf: float | None
    processes: int
    expected: dict[str, int] | None
    settings: dict[str, str]
    mix: Mapping[str, float] = field(default_factory=lambda: {BALANCE: 1.0})
    warm_up_s: float = 0.0
    frames: Frames | None = None

    def job(self, loop: Loop) -> Job:
        return Job(
            target=self.target, mix=dict(self.mix), loop=loop, timeout_s=self.timeout_s, ids=self.ids,
            zipf=self.zipf, seed=SEED, expected=self.expected, nonce=f"load-{uuid.uuid4().hex[:12]}",
            frames=self.frames,
        )  # fmt: skip

    def warm_up(self, loop: Loop) -> Loop:
        """Return the same load, for `warm_up_s` seconds."""
        endless = {"requests": ENDLESS} if isinstance(loop, Closed) else {}
        return loop.model_copy(update={"duration_s": self.warm_up_s, **endless})


async def one_load(
    plan: Plan, loop: Loop, console: Console, stop: asyncio.Event, label: str = ""
) -> tuple[Totals, list[TaskShare]]:
    """Run one load; return its totals and each task's share."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(plan.nats)) if plan.nats else None
        if client and not await instances.statistics(client):
            raise BenchmarkError("no task answers $SRV.STATS.customer; is the service running, with these credentials?")
        if plan.warm_up_s:
            await generators.run(plan.job(plan.warm_up(loop)), processes=plan.processes, stop=stop)
        before = await instances.statistics(client) if client else {}
        progress = stack.enter_context(Progress(console, label))
        totals = await generators.run(
            plan.job(loop), processes=plan.processes, on_tick=lambda now: progress.update(now, loop), stop=stop
        )
        after = await instances.statistics(client) if client else {}
    if not totals.done and not totals.interrupted:
        raise BenchmarkError("no request was sent; give more --requests, or a longer --duration")
    return totals, instances.split(before, after)


async def plan_of(load: LoadOptions) -> Plan:
    """Make a plan from the options.

    Raises `BenchmarkError` if they contradict each other, or name something that does not exist.
    """
    timeout_s, warm_up_s = duration_s(load.timeout, "--timeout"), duration_s(load.warm_up, "--warm-up", or_zero=True)
    mix = parse_mix(load.mix)
    if load.verify and ADJUST in mix:
        raise BenchmarkError("--verify compares balances, and `adjust` changes them; leave one out")
    nats = None
    if load.gateway is None or load.server or load.creds or load.context:
        users = (CLIENT,) if load.gateway else (CLIENT, REGISTRAR, TELLER)
        user = CLIENT.name if load.creds or load.context else _user_for(() if load.gateway else mix, users)
        nats = nats_target(load.server, load.creds, load.context, user=user)
    target: Target | None = nats
    if load.gateway:
        own = load.token_file or os.environ.get(TOKEN_VARIABLE)
        user = GATEWAY.name if own else _user_for(mix, (GATEWAY, REGISTRAR, TELLER))
        target = gateway_target(load.gateway, load.token_file, user=user)
    assert target
    where = load.gateway or load.context or ", ".join(nats.servers if nats else ())
    settings = {
        "target": where, "timeout": load.timeout, "mix": mix_text(mix), "warm-up": load.warm_up,
        "client ids": f"1 to {load.ids:,}{f', Zipf {load.zipf:g}' if load.zipf is not None else ''}",
        "generators": str(load.processes), CHECKED: "yes" if load.verify else "no",
    }  # fmt: skip
    local = not (load.server or load.creds or load.context)
    expected = await asyncio.to_thread(balances, local=local) if load.verify else None
    return Plan(
        target, nats, timeout_s, load.ids, load.zipf, load.processes, expected, settings, mix=mix, warm_up_s=warm_up_s
    )


def _user_for(mix: Collection[str], users: Sequence[User]) -> str:
    """Return the first user that may request all of these endpoints. Raises `BenchmarkError` if none may."""
    subjects = {ENDPOINTS[name].subject for name in mix}
    for user in users:
        if subjects <= set(user.publish):
            return user.name
    raise BenchmarkError(f"--mix {','.join(mix)}: no user may request all of these; load them one after the other")


def balances(*, local: bool) -> dict[str, int]:
    """Read every balance in the table, to compare replies with.

    Raises `BenchmarkError` if the table cannot be read.
    """
    table = os.environ.get("DDB_TABLE") or (TABLE if local else None)
    if table is None:
        raise BenchmarkError("--verify needs the table: set DDB_TABLE, and what the AWS SDK needs")
    try:
        if local and ENDPOINT not in os.environ:
            return rows(table, environment(Ports.dynamodb))
        names = Attributes(
            os.environ.get("DDB_KEY") or KEY_ATTRIBUTE, os.environ.get("DDB_BALANCE") or BALANCE_ATTRIBUTE
        )
        return scan(boto3.client("dynamodb", region_name=configured_region()), table, names)
    except (BotoCoreError, ClientError) as error:
        elsewhere = f"; if `make up` has its DynamoDB on another port, set {ENDPOINT}, as it prints" if local else ""
        raise BenchmarkError(f"table {table} cannot be read: {error}{elsewhere}") from None
