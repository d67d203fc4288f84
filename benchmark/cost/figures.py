"""Summarize the samples of `cost`: rows to read, and the figures that the service must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from benchmark.cost.adjust import BESIDE_PER_S, IN_FLIGHT, OF_ONE, AdjustCost
from benchmark.cost.adjust import SLOW_MS as ONE_MS
from benchmark.cost.archive import SLOW_MS, Archived
from benchmark.cost.create import CONCURRENCY
from benchmark.cost.devices import DevicesCost
from benchmark.cost.queue import QueueCost
from benchmark.cost.queue_calls import AT_A_TIME
from benchmark.load.job import Frames
from benchmark.report.measured import Measured
from benchmark.report.result import CostRow, Requirement, ScaleRow

ECHO: Final = "echo"
SERVICE: Final = "service"
BASELINE: Final = "baseline"
PEER: Final = "Go peer"
TRACED: Final = "service, traceparent"
ODD: Final = "service, 1 % odd"
VARIANTS: Final[Mapping[str, Frames]] = {TRACED: "traceparent", ODD: "odd"}
"""Loads for the service only, at `BUSY`."""
PROGRAMS: Final = (ECHO, SERVICE, *VARIANTS, PEER, BASELINE)
BUSY: Final = 500


@dataclass(frozen=True)
class Sample:
    """The result of one program under one load."""

    measured: Measured
    server_cpu_us: float
    nats_cpu_us: float
    load_cpu_us: float
    """CPU of the generator per request."""


Round = dict[tuple[str, int], Sample]
"""(program, concurrency) -> sample."""


def cost_rows(rounds: Sequence[Round], resident: dict[str, float]) -> list[CostRow]:
    return [
        CostRow(
            program=program,
            concurrency=concurrency,
            throughput=median(now[program, concurrency].measured.throughput for now in rounds),
            p50_ms=median(now[program, concurrency].measured.latency.p50_ms for now in rounds),
            p99_ms=median(now[program, concurrency].measured.latency.p99_ms for now in rounds),
            server_cpu_us=median(now[program, concurrency].server_cpu_us for now in rounds),
            nats_cpu_us=median(now[program, concurrency].nats_cpu_us for now in rounds),
            load_cpu_us=median(now[program, concurrency].load_cpu_us for now in rounds),
            memory_mib=resident[program],
        )
        for program, concurrency in sorted(rounds[0], key=lambda pair: (pair[1], PROGRAMS.index(pair[0])))
    ]


def scale_row(of: Literal["tasks", "rows"], size: int, *samples: Sample) -> ScaleRow:
    return ScaleRow(
        of=of,
        size=size,
        throughput=median(sample.measured.throughput for sample in samples),
        p99_ms=median(sample.measured.latency.p99_ms for sample in samples),
        server_cpu_us=median(sample.server_cpu_us for sample in samples),
    )


def requirements(
    rounds: Sequence[Round],
    scale: Sequence[ScaleRow],
    memory: Sequence[tuple[int, float]],
    creates: float,
    adjusted: AdjustCost,
    queue: QueueCost,
    archive: Archived,
    devices: DevicesCost,
    loaded: float,
) -> list[Requirement]:
    """Return the requirements, from the medians of the rounds' ratios. Without the Go peer, its figures are None.

    `creates` and `loaded` are such medians: the rates of creates and of loaded rows, relative to bare writes.
    """

    def ratio(figure: Callable[[Sample], float], over: str, concurrency: int = BUSY, of: str = SERVICE) -> float:
        return median(figure(now[of, concurrency]) / figure(now[over, concurrency]) for now in rounds)

    def of_peer(figure: Callable[[Sample], float], concurrency: int = BUSY) -> float | None:
        return ratio(figure, PEER, concurrency) if (PEER, concurrency) in rounds[0] else None

    rows = [row.server_cpu_us for row in scale if row.of == "rows"]
    requests, resident = memory[-1]
    half = memory[len(memory) // 2 - 1]
    messages, queue_resident = queue.memory[-1]
    queue_half = queue.memory[len(queue.memory) // 2 - 1]

    readings, devices_resident = devices.memory[-1]
    devices_half = devices.memory[len(devices.memory) // 2 - 1]

    def at_least(name: str, text: str, figure: float | None, bound: float) -> Requirement:
        return Requirement(name=name, text=text, figure=figure, bound=bound, at_least=True, unit="")

    def at_most(name: str, text: str, figure: float | None, bound: float, unit: str = "") -> Requirement:
        return Requirement(name=name, text=text, figure=figure, bound=bound, at_least=False, unit=unit)

    return [
        at_most("cpu_over_peer", f"CPU of a request at {BUSY} in flight, over the Go peer's", of_peer(_cpu), 0.75),
        at_most("both_cpu_over_peer", "the same, with the CPU of nats-server", of_peer(_cpu_of_both), 0.9),
        at_least("of_peer", f"throughput at {BUSY} in flight, of the Go peer's", of_peer(_throughput), 1.0),
        at_most("p50_over_peer", "p50 at 1 in flight, over the Go peer's", of_peer(_p50, 1), 1.0),
        at_most("cpu_over_echo", f"CPU of a request at {BUSY} in flight, over the lean echo's", ratio(_cpu, ECHO), 0.6),
        at_most("cpu_over_untraced", "the same with a traceparent, over without", ratio(_cpu, SERVICE, of=TRACED), 1.3),
        at_most("cpu_over_regular", "the same with 1 % odd, over none", ratio(_cpu, SERVICE, of=ODD), 1.3),
        at_least(
            "over_plain", f"throughput at {BUSY} in flight, over the baseline's", ratio(_throughput, BASELINE), 15
        ),
        at_most("memory", f"memory of one task after {requests:,} requests", resident, 80, " MiB"),
        at_most("memory_growth", f"growth since {half[0]:,} requests", resident - half[1], 2, " MiB"),
        at_most("cpu_over_rows", f"CPU of a request, {_sizes(scale)}", rows[-1] / rows[0], 1.15),
        at_least("create_of_insert", f"creates/s at {CONCURRENCY} in flight, of a bare PutItem's", creates, 0.6),
        at_least(
            "adjust_of_transactions",
            f"adjustments/s at {IN_FLIGHT} in flight, of bare transactions'",
            adjusted.of_transactions,
            0.9,
        ),
        at_least(
            "adjust_one_client",
            f"of one client at {OF_ONE}, over a transaction at a time, {ONE_MS:g} ms each",
            adjusted.one_client,
            10,
        ),
        at_most("adjust_cpu_over_create", "CPU of an adjustment, over a create's", adjusted.cpu_over_create, 2.0),
        at_most(
            "balance_beside_adjust",
            f"p50 at 1 in flight beside {BESIDE_PER_S} adjustments/s, over another task's",
            adjusted.balance_beside,
            1.15,
        ),
        at_least("queue_of_pull", "messages/s through the sidecar, of a plain pull consumer's", queue.same, 0.8),
        at_least("queue_short_of_pull", "the same, with a shorter visibility", queue.shorter, 0.6),
        at_least("queue_delete_of_empty", f"deletes of one, {AT_A_TIME} at a time, of empty calls", queue.delete, 0.6),
        at_least("queue_receive_of_empty", "receives of one, of the same", queue.receive, 0.45),
        at_most("queue_memory", f"memory of the sidecar after {messages:,} messages", queue_resident, 120, " MiB"),
        at_most("queue_growth", f"growth since {queue_half[0]:,} messages", queue_resident - queue_half[1], 2, " MiB"),
        at_least("archive_of_writes", "rows/s of the archive, of bare BatchWriteItem's", archive.rate_of_writes, 0.85),
        at_most("archive_cpu_over_plain", "CPU of a row, over nats-py with boto3", archive.cpu_over_plain, 0.2),
        at_least("archive_slow_busy", f"cores the archive uses, with {SLOW_MS:g} ms a call", archive.slow_busy, 0.8),
        at_least("load_of_writes", "rows/s of a load, of bare BatchWriteItem's", loaded, 0.9),
        at_most("devices_cpu_over_bare", "CPU of a reading, over nats-py's fetch and ack", devices.cpu_over_bare, 1.5),
        at_most("devices_cpu_over_writing", "the same, over one that writes too", devices.cpu_over_writing, 0.8),
        at_least("devices_of_writing", "readings/s of the role, of that one's", devices.rate_of_writing, 0.9),
        at_most("devices_memory", f"memory of the role after {readings:,} readings", devices_resident, 120, " MiB"),
        at_most(
            "devices_growth",
            f"growth since {devices_half[0]:,} readings",
            devices_resident - devices_half[1],
            2,
            " MiB",
        ),
        at_most(
            "devices_connection", "nats-server's memory for a connected device", devices.connection_kib, 80, " KiB"
        ),
    ]


def _sizes(scale: Sequence[ScaleRow]) -> str:
    sizes = [row.size for row in scale if row.of == "rows"]
    return f"{sizes[-1]:,} rows over {sizes[0]:,}"


def _throughput(sample: Sample) -> float:
    return sample.measured.throughput


def _cpu(sample: Sample) -> float:
    return sample.server_cpu_us


def _cpu_of_both(sample: Sample) -> float:
    return sample.server_cpu_us + sample.nats_cpu_us


def _p50(sample: Sample) -> float:
    return sample.measured.latency.p50_ms
