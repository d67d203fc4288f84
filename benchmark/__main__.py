"""`python -m benchmark`: run, sweep, cost, web."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from benchmark import sweep as sweeps
from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import parse_mix
from benchmark.load.job import ENDLESS, Closed, Loop, Open
from benchmark.measure import fail, measure, progress_console
from benchmark.options import FAIL_IF, LoadOptions, OutputOptions, Questions
from benchmark.plan import one_load, plan_of
from benchmark.report import result as results
from benchmark.report import thresholds
from benchmark.report.measured import Measured
from benchmark.report.result import Machine, Result, RunResult, SweepResult
from benchmark.report.summary_line import summary_line
from benchmark.report.thresholds import duration_s
from control_plane.cli.options import unfold
from control_plane.errors import ProvisioningError
from local.process import LocalError

cli = typer.Typer(
    help="Measure the service: run a load, sweep to its limit, measure a request's cost, or watch it live.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
REQUESTS = 1000
CONCURRENCY = 1000
DURATION = "10s"


@cli.command()
@unfold
def run(
    *,
    requests: Annotated[
        int | None,
        typer.Option(min=1, help=f"Closed loop: number. Default {REQUESTS}; none with --duration."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=100_000, help=f"Closed loop: requests in flight. Default {CONCURRENCY}.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Open loop: requests/s, however slow the replies.")
    ] = None,
    duration: Annotated[str | None, typer.Option(help=f"How long. Default of an open loop: {DURATION}.")] = None,
    load: LoadOptions,
    output: OutputOptions,
    fail_if: Annotated[list[str] | None, typer.Option(help=f"{FAIL_IF} {', '.join(thresholds.RUN)}.")] = None,
) -> None:
    """Run one load and report its result.

    Without --rate, a closed loop: --requests or --duration, whichever ends first, with at most --concurrency in flight;
    the last line has the format of the program that this one replaces. With --rate, an open loop: latency counts from
    when a request was due.
    """

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        loop, pace = _loop(requests, concurrency, rate, duration, poisson=load.poisson)
        plan = await plan_of(load)
        started_at = results.now()
        totals, tasks = await one_load(plan, loop, progress_console, stop)
        result = RunResult.of(totals, plan.settings | pace, tasks, started_at)
        if isinstance(loop, Open):
            return result, None
        return result, summary_line(totals.done, loop.concurrency, plan.timeout_s, totals.completed_s)

    measure(work, output, fail_if, lambda: thresholds.run_figures(parse_mix(load.mix)))


@cli.command()
@unfold
def sweep(
    *,
    rates: Annotated[
        str | None, typer.Option(help="Requests/s, comma separated. Default: growing until too high.")
    ] = None,
    concurrencies: Annotated[
        str | None, typer.Option(help="Sweep over requests in flight instead: comma separated, or `auto`.")
    ] = None,
    p99: Annotated[str, typer.Option(help="The highest p99 allowed.")] = "50ms",
    step: Annotated[str, typer.Option(help="How long each load lasts.")] = "5s",
    load: LoadOptions,
    output: OutputOptions,
    fail_if: Annotated[list[str] | None, typer.Option(help=f"{FAIL_IF} {', '.join(thresholds.SWEEP)}.")] = None,
) -> None:
    """Raise the load in steps until the service saturates; find the highest rate within --p99."""

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        if rates and concurrencies:
            raise BenchmarkError("a sweep is over --rates or over --concurrencies, not both")
        over: sweeps.Over = "concurrency" if concurrencies else "rate"
        given = _numbers(rates or concurrencies or "auto", "--concurrencies" if concurrencies else "--rates")
        step_s, target_ms = duration_s(step, "--step"), duration_s(p99, "--p99") * 1000
        plan = await plan_of(load)
        started_at = results.now()

        async def measured(loop: Loop) -> Measured:
            label = f"{loop.rate:,.0f}/s" if isinstance(loop, Open) else f"{loop.concurrency:,} in flight"
            return Measured.of((await one_load(plan, loop, progress_console, stop, label))[0])

        steps, best = await sweeps.sweep(
            measured, over, given, step_s=step_s, target_p99_ms=target_ms, poisson=load.poisson
        )
        found = SweepResult(
            started_at=started_at, machine=Machine.this(), settings=plan.settings | {"step": step}, over=over,
            target_p99_ms=target_ms, steps=steps, best=best,
        )  # fmt: skip
        return found, None

    measure(work, output, fail_if, lambda: thresholds.SWEEP)


@cli.command()
@unfold
def cost(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="One short round: a first look, not a measurement.")] = False,
    output: OutputOptions,
    fail_if: Annotated[list[str] | None, typer.Option(help=f"{FAIL_IF} {', '.join(thresholds.COST)}.")] = None,
) -> None:
    """Measure what one request costs on this machine: the service beside a Go peer, an echo and a baseline.

    Starts everything it needs and takes some minutes. Exits with 1 if a figure misses its bound.
    """
    from benchmark.cost import run as costs  # noqa: PLC0415  imports gRPC and more, which no other command needs

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        return await costs.measure(costs.QUICK if quick else costs.FULL, progress_console, stop), None

    result = measure(work, output, fail_if, lambda: thresholds.COST)
    if isinstance(result, results.CostResult) and not all(claim.holds for claim in result.claims) and not quick:
        fail("a figure misses its bound")


@cli.command()
@unfold
def web(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The page's port, on loopback. 0: any free port.")] = 8090,
    questions: Questions,
) -> None:
    """Serve a page on this machine until Ctrl-C: set a rate and a mix, and watch the service and each of its tasks.

    Scripts: GET /status, /metrics; POST /start?rate=1000&mix=balance=80,get=20&poisson=true&processes=0, /stop.
    """
    from benchmark.web.server import serving  # noqa: PLC0415  only this command serves a page

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with serving(await plan_of(LoadOptions(**vars(questions))), port) as address:
            print(f"the live page is {address} (Ctrl-C ends it)", flush=True)
            await stop.wait()

    try:
        asyncio.run(serve())
    except (BenchmarkError, LocalError, ProvisioningError) as error:
        fail(str(error))


def _loop(
    requests: int | None, concurrency: int | None, rate: float | None, duration: str | None, *, poisson: bool
) -> tuple[Loop, dict[str, str]]:
    """Return the loop that the options describe, and its settings for the result.

    Raises `BenchmarkError` if they contradict each other.
    """
    if rate is not None:
        if requests is not None or concurrency is not None:
            given = "--requests" if requests is not None else "--concurrency"
            raise BenchmarkError(f"{given} is for a closed loop and --rate for an open one; leave one out")
        pace = f"{rate:,g}/s{', Poisson' if poisson else ''}"
        duration = duration or DURATION
        loop: Loop = Open(rate=rate, duration_s=duration_s(duration, "--duration"), poisson=poisson)
        return loop, {"rate": pace, "duration": duration}
    if poisson:
        raise BenchmarkError("--poisson is for an open loop; give --rate")
    seconds = duration_s(duration, "--duration") if duration else None
    count = requests or (ENDLESS if seconds else REQUESTS)
    loop = Closed(requests=count, concurrency=concurrency or CONCURRENCY, duration_s=seconds)
    said = {"requests": f"{count:,}"} if count != ENDLESS else {}
    said |= {"duration": duration} if duration else {}
    return loop, said | {"in flight": f"{loop.concurrency:,}"}


def _numbers(text: str, option: str) -> list[float]:
    if text == "auto":
        return []
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise BenchmarkError(f"{option} {text!r} is not a list of numbers, for example 1000,2000,4000")
    return numbers


if __name__ == "__main__":
    cli(prog_name="python -m benchmark")
