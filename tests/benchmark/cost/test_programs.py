"""What the programs of `make bench` are run by."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.cost.programs.programs import Bench


def test_an_interrupted_bench_ends_between_two_measurements(tmp_path: Path) -> None:
    stop = asyncio.Event()
    bench = Bench(tmp_path, Console(quiet=True), stop)
    bench.say("one is measured")
    stop.set()
    with pytest.raises(asyncio.CancelledError):
        bench.say("two are measured")
