"""The rules that are deployed, rehearsed: what they decide, and that real tasks follow."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from deploy.scaling_rules import SCALE_IN_COOLDOWN_S, SCALE_OUT_COOLDOWN_S
from local.scaling.autoscale import Autoscaler, averaged
from local.scaling.target_tracking import HIGH_READINGS, LOW_READINGS, PERIOD_S, Rules, TargetTracking
from tests.support.world import World, eventually

RULES = Rules(min_tasks=2, max_tasks=6, targets={"Cpu": 60.0, "InFlight": 100.0, "TimeWithoutCredit": 5.0}, vcpu=0.5)
IDLE = {"Cpu": 1.0, "InFlight": 0.0, "TimeWithoutCredit": 0.0}
AT_TARGET = {"Cpu": 58.0, "InFlight": 0.0, "TimeWithoutCredit": 0.0}


def decided(tasks: int, *readings: Mapping[str, float]) -> list[int]:
    tracking, found = TargetTracking(RULES), []
    for minute, reading in enumerate(readings):
        tasks = tracking.decide(minute * PERIOD_S, tasks, reading)
        found.append(tasks)
    return found


def test_the_rules_are_those_of_the_deployment() -> None:
    rules = Rules.deployed()
    assert rules.targets.keys() == {"Cpu", "InFlight", "TimeWithoutCredit"}
    assert (rules.scale_out_cooldown_s, rules.scale_in_cooldown_s) == (SCALE_OUT_COOLDOWN_S, SCALE_IN_COOLDOWN_S)
    assert rules.min_tasks <= rules.max_tasks


def test_three_readings_above_a_target_ask_for_more_in_proportion() -> None:
    busy = {**IDLE, "Cpu": 90.0}
    assert decided(2, *[busy] * HIGH_READINGS) == [2, 2, 3]
    assert decided(2, busy, busy, AT_TARGET, busy, busy) == [2] * 5, "not in a row"


def test_the_metric_that_asks_for_most_decides_and_the_maximum_holds() -> None:
    both = {"Cpu": 66.0, "InFlight": 190.0, "TimeWithoutCredit": 0.0}
    assert decided(2, *[both] * HIGH_READINGS)[-1] == 4
    assert decided(2, *[{**IDLE, "TimeWithoutCredit": 100.0}] * 10)[-1] == RULES.max_tasks


def test_a_scale_out_waits_for_the_one_before() -> None:
    tracking = TargetTracking(RULES)
    busy = {**IDLE, "Cpu": 61.0}
    times = [0.0, 1.0, 2.0, 2.0 + SCALE_OUT_COOLDOWN_S - 1, 2.0 + SCALE_OUT_COOLDOWN_S]
    tasks, found = 2, []
    for now_s in times:
        tasks = tracking.decide(now_s, tasks, busy)
        found.append(tasks)
    assert found == [2, 2, 3, 3, 4]


def test_tasks_go_after_fifteen_low_readings_of_every_metric_and_never_below_the_minimum() -> None:
    assert decided(6, *[IDLE] * (LOW_READINGS - 1))[-1] == 6
    assert decided(6, *[IDLE] * LOW_READINGS)[-1] == 2
    assert decided(6, *[AT_TARGET] * 40)[-1] == 6, "just below its target is where it is to be"
    one_high = {**IDLE, "InFlight": 95.0}
    assert decided(6, *[one_high] * 40)[-1] == 6


def test_a_scale_in_waits_for_whatever_was_scaled_before() -> None:
    tracking = TargetTracking(RULES)
    for now_s in range(HIGH_READINGS):
        tracking.decide(float(now_s), 2, {**IDLE, "Cpu": 90.0})
    after = [tracking.decide(10.0 + second, 3, IDLE) for second in range(LOW_READINGS)]
    assert after == [3] * LOW_READINGS
    assert tracking.decide(2.0 + SCALE_IN_COOLDOWN_S, 3, IDLE) == 2


def test_tasks_that_do_not_answer_are_no_sign_of_a_low_load() -> None:
    busy = {"Cpu": 0.05, "InFlight": 30.0, "TimeWithoutCredit": 0.2}
    idle = {"Cpu": 0.0, "InFlight": 0.0, "TimeWithoutCredit": 0.0}
    assert averaged([busy, idle], 0.1) == {"Cpu": 25.0, "InFlight": 15.0, "TimeWithoutCredit": 10.0}
    assert averaged([], 0.1) is None


async def test_real_tasks_are_kept_at_the_minimum_replaced_and_stopped(world: World) -> None:
    said: list[str] = []
    rules = Rules(min_tasks=1, max_tasks=2, targets=RULES.targets, vcpu=0.9)
    scaler = Autoscaler(rules, world.service_env(SEED_ROWS="5"), world.folder, speed=200, say=said.append)
    running = asyncio.create_task(scaler.run())
    try:
        await eventually(lambda: len(scaler.tasks) == 1, within_s=30)
        first = next(iter(scaler.tasks))
        first.child.signal(signal.SIGKILL)
        await eventually(lambda: bool(scaler.tasks) and first not in scaler.tasks, within_s=30, what="a new task")
        second = next(iter(scaler.tasks))
        assert any("ended with -9; another takes its place" in line for line in said), said
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert running.cancelled()
    assert second.child.process.returncode == 0, "it drained"
