"""`make nemesis`: run plans by their seeds, judge what happened; reduce a plan that fails to the faults it needs."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import trustme

from tests.nemesis.checker.history import Recovery
from tests.nemesis.checker.invariants import broken
from tests.nemesis.mutants import MUTANTS
from tests.nemesis.plan import Plan, make_plan
from tests.nemesis.run import run
from tests.support.world import Servers, start_servers

FOLDER = Path(".nemesis")
RUN_S = 300.0


def main() -> int:
    """Return 0 if every run held, 1 if one did not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed (default: any)")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, one after another")
    parser.add_argument("--only", default="", help="numbers of the faults to apply, with commas: 0,3")
    parser.add_argument("--mutant", choices=MUTANTS, default="", help="of the service: try seeds until one finds it")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long clients are disturbed in each run")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "big")
    only = tuple(map(int, given.only.split(","))) if given.only else None
    FOLDER.mkdir(exist_ok=True)
    authority = FOLDER.resolve() / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    os.environ["SSL_CERT_FILE"] = str(authority)
    try:
        plans = [make_plan(number, given.seconds) for number in range(seed, seed + given.runs)]
        return asyncio.run(_find(plans, given.mutant) if given.mutant else _all(plans, only))
    except KeyboardInterrupt:
        return 130


async def _all(plans: list[Plan], only: tuple[int, ...] | None) -> int:
    recoveries: list[Recovery] = []
    failed, requests, faults = 0, 0, 0
    async with start_servers(_servers()) as servers:
        for plan in plans:
            chosen = plan.only(only) if only is not None else plan
            problems, found, count = await judge(chosen, servers)
            recoveries += found
            requests += count
            faults += len(chosen.faults)
            where = "cluster" if plan.nodes > 1 else "single"
            print(f"seed {plan.seed} ({where}): {len(chosen.faults)} faults, {count:,} requests, "
                  f"{'held' if not problems else 'BROKEN'}", flush=True)  # fmt: skip
            if problems:
                failed += 1
                print(*(f"  {problem}" for problem in problems[:20]), sep="\n", flush=True)
                if only is None:
                    await _reduce(plan, servers)
    print(f"{len(plans)} runs, {faults} faults, {requests:,} requests, {failed} broken")
    _table(recoveries)
    return 1 if failed else 0


async def _find(plans: list[Plan], mutant: str) -> int:
    """Return 0 if one of the plans finds the mutant."""
    async with start_servers(_servers()) as servers:
        for plan in plans:
            problems, _, count = await judge(plan, servers, mutant)
            if problems:
                print(f"{mutant}: found by seed {plan.seed} ({count:,} requests)", *problems[:5], sep="\n  ")
                return 0
            print(f"{mutant}: not found by seed {plan.seed}", flush=True)
    return 1


async def judge(plan: Plan, servers: Servers, mutant: str = "") -> tuple[list[str], list[Recovery], int]:
    """Run a plan; return what is broken, how long recoveries took, and how many requests there were."""
    folder = (FOLDER / str(plan.seed)).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan.as_json(), indent=1))
    try:
        async with asyncio.timeout(RUN_S):
            history, stored = await run(plan, servers, folder, mutant)
    except Exception as error:  # whatever it was, the seed did not hold, and the next one is due
        return [f"did not end: {error!r}"], [], 0
    (folder / "history.json").write_text(
        json.dumps({"ended": [asdict(one) for one in history.ended], "unanswered": history.unanswered,
                    "recoveries": [asdict(one) for one in history.recoveries],
                    "memory_mib": history.memory_mib}, indent=1)
    )  # fmt: skip
    count = len(history.balances) + sum(history.unanswered.values()) + len(history.created) + len(history.adjusted)
    return broken(history, stored), history.recoveries, count


def _servers() -> Path:
    shutil.rmtree(FOLDER / "servers", ignore_errors=True)
    return (FOLDER / "servers").resolve()


async def _reduce(plan: Plan, servers: Servers) -> None:
    """Leave out one fault after another while it still fails; print the command that shows it."""
    needed = [fault.number for fault in plan.faults]
    for number in list(needed):
        rest = tuple(other for other in needed if other != number)
        problems, _, _ = await judge(plan.only(rest), servers)
        if problems:
            needed.remove(number)
    faults = "".join(f"\n    {fault}" for fault in plan.only(tuple(needed)).faults)
    print(f"  make nemesis SEED={plan.seed} ONLY={','.join(map(str, needed))}{faults}", flush=True)


def _table(recoveries: list[Recovery]) -> None:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for recovery in recoveries:
        by_kind[recovery.kind].append(recovery.seconds)
    print("\nseconds from a fault's end to the next right answer\nfault                   times  median   worst")
    for kind, seconds in sorted(by_kind.items()):
        print(f"{kind:<22} {len(seconds):>6} {statistics.median(seconds):>7.2f} {max(seconds):>7.2f}")


if __name__ == "__main__":
    sys.exit(main())
