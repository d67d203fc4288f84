"""Code shared by measurements: turns, so that other load on the machine affects all alike, and memory over a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import psutil

Found = TypeVar("Found")


async def in_turns(measures: Sequence[Callable[[], Awaitable[Found]]], rounds: int) -> AsyncIterator[list[Found]]:
    """Yield what each finds in a round, in the order given; every second round measures in reverse."""
    for number in range(rounds):
        order = measures[::-1] if number % 2 else measures
        found = {measure: await measure() for measure in order}
        yield [found[measure] for measure in measures]


async def memory_after(
    totals: Sequence[int], work: Callable[[int], Awaitable[object]], pid: int, of: str, say: Callable[[str], None],
    *, at_a_time: int,
) -> list[tuple[int, float]]:  # fmt: skip
    """Make the process work; return its resident MiB after each of these growing totals."""
    found: list[tuple[int, float]] = []
    done = 0
    for total in totals:
        while done < total:
            some = min(at_a_time, total - done)
            await work(some)
            done += some
        found.append((total, memory_mib(pid)))
        say(f"{total:,} {of}: {found[-1][1]:.1f} MiB")
    return found


def memory_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 2**20
