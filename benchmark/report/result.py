"""The result file: version, machine, settings, and what was measured."""

from __future__ import annotations

import json
import os
import platform
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from benchmark.errors import BenchmarkError
from benchmark.load.latency import encoded
from benchmark.load.totals import Totals
from benchmark.report.measured import Measured, Model

VERSION: Final = 2
_CURVE: Final = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99, 99.999, 100)
STDOUT: Final = Path("-")


class Machine(Model):
    """The machine on which the generators ran."""

    system: str
    cpu: str
    cores: int
    python: str

    @staticmethod
    def this() -> Machine:
        return Machine(
            system=f"{platform.system()} {platform.release()}",
            cpu=_cpu_name() or platform.machine(),
            cores=os.cpu_count() or 1,
            python=platform.python_version() + ("" if _is_optimized() else ", built without optimizations"),
        )


def _is_optimized() -> bool:
    """Return whether the interpreter was built with PGO; Debian's build does not show it in CONFIG_ARGS."""
    built_with = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return "--enable-optimizations" in built_with or not sysconfig.get_config_var("PGO_PROF_USE_FLAG")


class TaskShare(Model):
    """One task's share, from its own statistics."""

    id: str
    requests: int
    errors: int
    processing_ms: float
    """Mean time from receiving a request to its reply."""


class Point(Model):
    """One second."""

    at_s: int
    replies: int
    errors: int
    p99_ms: float


CHECKED: Final = "balances checked"
"""The setting that says whether balances were compared with the table's."""


class Header(Model):
    version: Literal[2] = VERSION
    started_at: str
    machine: Machine
    settings: dict[str, str]
    """The options as text, without secrets."""

    @property
    def interrupted(self) -> bool:
        return False


class RunResult(Header):
    """`python -m benchmark run`."""

    kind: Literal["run"] = "run"
    measured: Measured
    curve: list[tuple[float, float]]
    """(percentile, milliseconds)."""
    timeline: list[Point]
    tasks: list[TaskShare]
    histogram: str
    """HdrHistogram's encoding, microseconds."""

    @property
    def interrupted(self) -> bool:
        return self.measured.interrupted

    def figures(self) -> dict[str, float]:
        return self.measured.figures()

    @staticmethod
    def of(totals: Totals, settings: dict[str, str], tasks: list[TaskShare], started_at: str) -> RunResult:
        return RunResult(
            started_at=started_at,
            machine=Machine.this(),
            settings=settings,
            measured=Measured.of(totals),
            curve=[(p, totals.histogram.get_value_at_percentile(p) / 1000) for p in _CURVE] if totals.replies else [],
            timeline=[
                Point(at_s=each.at_s, replies=each.replies, errors=each.errors.total(), p99_ms=each.p99_ms)
                for each in totals.timeline
            ],
            tasks=tasks,
            histogram=encoded(totals.histogram),
        )


class SweepStep(Model):
    """One step of a sweep."""

    load: float
    """Requests/s, or requests in flight."""
    measured: Measured


class SweepResult(Header):
    """`python -m benchmark sweep`."""

    kind: Literal["sweep"] = "sweep"
    over: Literal["rate", "concurrency"]
    target_p99_ms: float
    steps: list[SweepStep]
    best: float | None
    """The highest load with p99 within the target, no error and the rate kept; None: not even the first step was."""

    @property
    def interrupted(self) -> bool:
        return any(step.measured.interrupted for step in self.steps)

    def figures(self) -> dict[str, float]:
        throughput = max((step.measured.throughput for step in self.steps), default=0.0)
        return {"best": self.best or 0.0, "throughput": throughput}


class CostRow(Model):
    """One server program at one concurrency: medians over the rounds."""

    program: str
    concurrency: int
    throughput: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    """CPU of the server program per request."""
    nats_cpu_us: float
    """CPU of nats-server per request."""
    load_cpu_us: float = 0.0
    """CPU of the generator per request."""
    memory_mib: float
    """Resident memory of the server program after the rounds."""


class ScaleRow(Model):
    """The service at one size."""

    of: Literal["tasks", "rows"]
    size: int
    throughput: float
    p99_ms: float
    server_cpu_us: float


class Requirement(Model):
    """A figure and its bound."""

    name: str
    text: str
    figure: float | None
    """None: not measured."""
    bound: float
    at_least: bool
    unit: str

    @property
    def holds(self) -> bool:
        if self.figure is None:
            return True
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


class CostResult(Header):
    """`python -m benchmark cost`."""

    kind: Literal["cost"] = "cost"
    rows: list[CostRow]
    scale: list[ScaleRow]
    memory: list[tuple[int, float]]
    """(requests so far, resident MiB)."""
    claims: list[Requirement]
    left_out: str = ""
    """Why there is no Go peer, or ''."""

    def figures(self) -> dict[str, float]:
        return {claim.name: claim.figure for claim in self.claims if claim.figure is not None}


Result = RunResult | SweepResult | CostResult
_ANY: Final[TypeAdapter[Result]] = TypeAdapter(Annotated[Result, Field(discriminator="kind")])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_writable(path: Path) -> None:
    """Raise `BenchmarkError` if `path` cannot be written. Call it before a load, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with path.open("a"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be written ({error.strerror})") from None


def write(result: Result, path: Path) -> None:
    """Write the result; `-` is standard output.

    Raises `BenchmarkError` if the file cannot be written.
    """
    if path == STDOUT:
        print(result.model_dump_json(indent=1))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be written ({error.strerror})") from None


def read(path: Path) -> Result:
    """Read a result. Raises `BenchmarkError` if the file is missing, or is not a result of this version."""
    try:
        text = path.read_text()
        version = json.loads(text).get("version")
        if version != VERSION:
            raise BenchmarkError(f"{path} has version {version}, and this benchmark reads {VERSION}; measure again")
        return _ANY.validate_json(text)
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, AttributeError, ValidationError):
        raise BenchmarkError(f"{path} is not a result of this benchmark (--json writes one)") from None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
