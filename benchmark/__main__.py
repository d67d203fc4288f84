"""`python -m benchmark`: run, sweep, cost."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.console import Console

from benchmark import cost as costs
from benchmark import result as results
from benchmark import sweep as sweeps
from benchmark.errors import BenchmarkError
from benchmark.job import Closed, Loop, Open
from benchmark.options import LoadOptions, OutputOptions
from benchmark.plan import Plan, balances, one_load
from benchmark.report import write_report
from benchmark.result import Machine, Measured, Result, RunResult, SweepResult
from benchmark.show import show, show_comparison
from benchmark.summary_line import summary_line
from benchmark.target import gateway_target, nats_target
from benchmark.thresholds import Threshold, duration_s, parse
from control_plane.errors import ProvisioningError
from control_plane.options import unfold
from local.process import LocalError

cli = typer.Typer(
    help="Measure the service: run a load, sweep to its limit, or see what a request costs.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
# Where there is no terminal to fit into, a table is as wide as it is.
console = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 200)
progress_console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


@cli.command()
@unfold
def run(
    *,
    requests: Annotated[int, typer.Option(min=1, help="Closed loop: the number of requests.")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, max=100_000, help="Closed loop: requests in flight.")] = 1000,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Open loop: requests/s, however slow the replies.")
    ] = None,
    duration: Annotated[str, typer.Option(help="Open loop: how long.")] = "10s",
    load: LoadOptions,
    output: OutputOptions,
) -> None:
    """Run one load, and report its result.

    Without --rate, a closed loop: --requests requests, at most --concurrency in flight, and the last line is that of
    the program this one replaces. With --rate, an open one: latency counts from when a request was due.
    """

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        plan = await _plan(load)
        loop: Loop = Closed(requests=requests, concurrency=concurrency)
        settings = plan.settings | {"requests": f"{requests:,}", "in flight": f"{concurrency:,}"}
        if rate is not None:
            loop = Open(rate=rate, duration_s=duration_s(duration, "--duration"), poisson=load.poisson)
            pace = f"{rate:,g}/s{', Poisson' if load.poisson else ''}"
            settings = plan.settings | {"rate": pace, "duration": duration}
        started_at = results.now()
        totals, tasks = await one_load(plan, loop, progress_console, stop)
        result = RunResult.of(totals, settings, tasks, started_at)
        done = result.measured.requests
        last = None if rate is not None else summary_line(done, concurrency, plan.timeout_s, totals.elapsed_s)
        return result, last

    _run(work, output)


@cli.command()
@unfold
def sweep(
    *,
    rates: Annotated[
        str | None, typer.Option(help="Requests/s, comma separated. Default: growing until too much.")
    ] = None,
    concurrencies: Annotated[
        str | None, typer.Option(help="Requests in flight, comma separated, or `auto`: a sweep over them instead.")
    ] = None,
    p99: Annotated[str, typer.Option(help="The p99 that must be kept.")] = "50ms",
    step: Annotated[str, typer.Option(help="How long each load lasts.")] = "5s",
    load: LoadOptions,
    output: OutputOptions,
) -> None:
    """Raise the load in steps until the service saturates; find the highest rate whose p99 is kept."""

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        if rates and concurrencies:
            raise BenchmarkError("a sweep is over --rates or over --concurrencies, not both")
        over: sweeps.Over = "concurrency" if concurrencies else "rate"
        given = _numbers(rates or concurrencies or "auto", "--concurrencies" if concurrencies else "--rates")
        step_s, target_ms = duration_s(step, "--step"), duration_s(p99, "--p99") * 1000
        plan = await _plan(load)
        started_at = results.now()

        async def measure(loop: Loop) -> Measured:
            label = f"{loop.rate:,.0f}/s" if isinstance(loop, Open) else f"{loop.concurrency:,} in flight"
            return Measured.of((await one_load(plan, loop, progress_console, stop, label))[0])

        steps, best = await sweeps.sweep(
            measure, over, given, step_s=step_s, target_p99_ms=target_ms, poisson=load.poisson
        )
        found = SweepResult(
            started_at=started_at, machine=Machine.this(), settings=plan.settings | {"step": step}, over=over,
            target_p99_ms=target_ms, steps=steps, best=best,
        )  # fmt: skip
        return found, None

    _run(work, output)


@cli.command()
@unfold
def cost(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="One short round: a look, not a measurement.")] = False,
    output: OutputOptions,
) -> None:
    """What one request costs on this machine: the service beside an echo and beside a simple baseline.

    Starts everything it needs and takes some minutes. Exits with 1 when a figure is not what it must be.
    """

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        return await costs.measure(costs.QUICK if quick else costs.FULL, progress_console, stop), None

    result = _run(work, output)
    if isinstance(result, results.CostResult) and not all(claim.holds for claim in result.claims) and not quick:
        _fail("a figure is not what it must be")


Work = Callable[[asyncio.Event], Awaitable[tuple[Result, str | None]]]


def _run(work: Work, output: OutputOptions) -> Result:
    """Check what can be checked before, measure, show, write, compare, judge."""
    try:
        thresholds = [parse(text) for text in output.fail_if or ()]
        old = results.read(output.compare) if output.compare else None
        result, last = asyncio.run(_until_signal(work))
        show(console, result)
        if output.json:
            results.write(result, output.json)
        if output.report:
            write_report(result, output.report)
        if old and output.compare:
            show_comparison(console, old, result, output.compare.name)
        if last:
            print(last)
        _judge(thresholds, result)
    except (BenchmarkError, LocalError, ProvisioningError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("interrupted before there was a result", code=130)
    return result


def _judge(thresholds: list[Threshold], result: Result) -> None:
    figures = result.figures()
    failed = [verdict for verdict in (each.verdict(figures) for each in thresholds) if verdict]
    if failed:
        raise BenchmarkError("; ".join(failed))


async def _until_signal(work: Work) -> tuple[Result, str | None]:
    """Ctrl-C or SIGTERM once: stop and report; twice: stop."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))

    def signalled() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return await task


async def _plan(load: LoadOptions) -> Plan:
    timeout_s = duration_s(load.timeout, "--timeout")
    nats = None
    if load.gateway is None or load.server or load.creds or load.context:
        nats = nats_target(load.server, load.creds, load.context)
    target = gateway_target(load.gateway, load.token_file) if load.gateway else nats
    assert target
    where = load.gateway or load.context or ", ".join(nats.servers if nats else ())
    settings = {
        "target": where, "timeout": load.timeout,
        "client ids": f"1 to {load.ids:,}{f', Zipf {load.zipf:g}' if load.zipf is not None else ''}",
        "generators": str(load.processes), "balances checked": "yes" if load.verify else "no",
    }  # fmt: skip
    local = not (load.server or load.creds or load.context)
    expected = await asyncio.to_thread(balances, local=local) if load.verify else None
    return Plan(target, nats, timeout_s, load.ids, load.zipf, load.processes, expected, settings)


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


def _fail(problem: str, code: int = 1) -> None:
    print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(code)


if __name__ == "__main__":
    cli(prog_name="python -m benchmark")
