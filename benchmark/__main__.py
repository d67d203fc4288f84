"""`python -m benchmark`: run, sweep, cost."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import cost as costs
from benchmark import result as results
from benchmark import sweep as sweeps
from benchmark.errors import BenchmarkError
from benchmark.gates import Gate, duration_s, gate
from benchmark.job import Closed, Loop, Open
from benchmark.original import last_line
from benchmark.plan import Plan, balances, one_load
from benchmark.report import write_report
from benchmark.result import Machine, Measured, Result, RunResult, SweepResult
from benchmark.show import show, show_comparison
from benchmark.target import gateway_target, nats_target
from control_plane.errors import ProvisioningError
from local.process import LocalError

cli = typer.Typer(
    help="Measure the service: run a load, sweep to its limit, or see what a request costs.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
# Where there is no terminal to fit into, a table is as wide as it is.
console = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 200)
progress_console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

Server = Annotated[str | None, typer.Option(help="NATS server(s), comma separated. Default: the one of `make up`.")]
Creds = Annotated[Path | None, typer.Option(help="A .creds file. Default: user client of `make up`.")]
Context = Annotated[str | None, typer.Option(help="A context of the nats CLI, by name, instead of server and creds.")]
Gateway = Annotated[str | None, typer.Option(help="An HTTP gateway's address: ask over HTTP, not over NATS.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="The gateway's token. Default: NATS_GATEWAY_TOKEN, then the one of `make up`.")
]
Timeout = Annotated[str, typer.Option(help="When a request is given up.")]
Ids = Annotated[int, typer.Option(min=1, max=10_000_000, help="Client ids are 1 to this, in turn.")]
Zipf = Annotated[float | None, typer.Option(min=0.0, help="Draw the ids, id k with weight 1/k**ZIPF.")]
Processes = Annotated[int, typer.Option(min=1, max=64, help="Generator processes.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare every balance with the table's (DDB_TABLE, AWS_*).")]
Poisson = Annotated[bool, typer.Option("--poisson", help="An open loop's requests come at random moments.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result here.")]
Report = Annotated[Path | None, typer.Option(help="Write a page with charts here: one self-contained HTML file.")]
Compare = Annotated[Path | None, typer.Option(help="An older --json file: show the ratios.")]
FailIf = Annotated[
    list[str] | None, typer.Option(help="Exit with 1 if so: 'p99>50ms', 'errors>0', 'throughput<1000'. Repeatable.")
]


@cli.command()
def run(
    requests: Annotated[int, typer.Option(min=1, help="Closed loop: so many requests,")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, max=100_000, help="so many of them in flight.")] = 1000,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Open loop: requests/s, however slow the replies,")
    ] = None,
    duration: Annotated[str, typer.Option(help="for so long.")] = "10s",
    poisson: Poisson = False,
    timeout: Timeout = "5s",
    server: Server = None,
    creds: Creds = None,
    context: Context = None,
    gateway: Gateway = None,
    token_file: TokenFile = None,
    ids: Ids = 1000,
    zipf: Zipf = None,
    processes: Processes = 2,
    verify: Verify = False,
    json: Json = None,
    report: Report = None,
    compare: Compare = None,
    fail_if: FailIf = None,
) -> None:
    """Put one load on, and report how it went.

    Without --rate, a closed loop: --requests requests, at most --concurrency in flight, and the last line is that of
    the program this one replaces. With --rate, an open one: latency counts from when a request was due.
    """

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        plan = await _plan(server, creds, context, gateway, token_file, timeout, ids, zipf, processes, verify=verify)
        loop: Loop = Closed(requests=requests, concurrency=concurrency)
        settings = plan.settings | {"requests": f"{requests:,}", "in flight": f"{concurrency:,}"}
        if rate is not None:
            loop = Open(rate=rate, duration_s=duration_s(duration, "--duration"), poisson=poisson)
            settings = plan.settings | {"rate": f"{rate:,g}/s{', Poisson' if poisson else ''}", "duration": duration}
        started_at = results.now()
        totals, tasks = await one_load(plan, loop, progress_console, stop)
        result = RunResult.of(totals, settings, tasks, started_at)
        done = result.measured.requests
        last = None if rate is not None else last_line(done, concurrency, plan.timeout_s, totals.elapsed_s)
        return result, last

    _run(work, json, report, compare, fail_if)


@cli.command()
def sweep(
    rates: Annotated[
        str | None, typer.Option(help="Requests/s, comma separated. Default: growing until too much.")
    ] = None,
    concurrencies: Annotated[
        str | None, typer.Option(help="Requests in flight, comma separated, or `auto`: a sweep over them instead.")
    ] = None,
    p99: Annotated[str, typer.Option(help="The p99 that must be kept.")] = "50ms",
    step: Annotated[str, typer.Option(help="How long each load lasts.")] = "5s",
    poisson: Poisson = False,
    timeout: Timeout = "5s",
    server: Server = None,
    creds: Creds = None,
    context: Context = None,
    gateway: Gateway = None,
    token_file: TokenFile = None,
    ids: Ids = 1000,
    zipf: Zipf = None,
    processes: Processes = 2,
    verify: Verify = False,
    json: Json = None,
    report: Report = None,
    compare: Compare = None,
    fail_if: FailIf = None,
) -> None:
    """Raise the load in steps until the service saturates; find the highest rate whose p99 is kept."""

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        if rates and concurrencies:
            raise BenchmarkError("a sweep is over --rates or over --concurrencies, not both")
        over: sweeps.Over = "concurrency" if concurrencies else "rate"
        given = _numbers(rates or concurrencies or "auto", "--concurrencies" if concurrencies else "--rates")
        step_s, target_ms = duration_s(step, "--step"), duration_s(p99, "--p99") * 1000
        plan = await _plan(server, creds, context, gateway, token_file, timeout, ids, zipf, processes, verify=verify)
        started_at = results.now()

        async def measure(loop: Loop) -> Measured:
            label = f"{loop.rate:,.0f}/s" if isinstance(loop, Open) else f"{loop.concurrency:,} in flight"
            return Measured.of((await one_load(plan, loop, progress_console, stop, label))[0])

        steps, best = await sweeps.sweep(measure, over, given, step_s=step_s, target_p99_ms=target_ms, poisson=poisson)
        found = SweepResult(
            started_at=started_at, machine=Machine.this(), settings=plan.settings | {"step": step}, over=over,
            target_p99_ms=target_ms, steps=steps, best=best,
        )  # fmt: skip
        return found, None

    _run(work, json, report, compare, fail_if)


@cli.command()
def cost(
    quick: Annotated[bool, typer.Option("--quick", help="One short round: a look, not a measurement.")] = False,
    json: Json = None,
    report: Report = None,
    compare: Compare = None,
    fail_if: FailIf = None,
) -> None:
    """What one request costs on this machine: the service beside an echo and beside the plain way to write it.

    Starts everything it needs and takes some minutes. Exits with 1 when a figure is not what it must be.
    """

    async def work(stop: asyncio.Event) -> tuple[Result, str | None]:
        return await costs.measure(costs.QUICK if quick else costs.FULL, progress_console, stop), None

    result = _run(work, json, report, compare, fail_if)
    if isinstance(result, results.CostResult) and not all(claim.holds for claim in result.claims) and not quick:
        _fail("a figure is not what it must be")


Work = Callable[[asyncio.Event], Awaitable[tuple[Result, str | None]]]


def _run(work: Work, json: Path | None, report: Path | None, compare: Path | None, fail_if: list[str] | None) -> Result:
    """Check what can be checked before, measure, show, write, compare, judge."""
    try:
        gates = [gate(text) for text in fail_if or ()]
        old = results.read(compare) if compare else None
        result, last = asyncio.run(_until_signal(work))
        show(console, result)
        if json:
            results.write(result, json)
        if report:
            write_report(result, report)
        if old and compare:
            show_comparison(console, old, result, compare.name)
        if last:
            print(last)
        _judge(gates, result)
    except (BenchmarkError, LocalError, ProvisioningError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("interrupted before there was anything to report", code=130)
    return result


def _judge(gates: list[Gate], result: Result) -> None:
    figures = result.figures()
    failed = [verdict for verdict in (each.verdict(figures) for each in gates) if verdict]
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


async def _plan(
    server: str | None,
    creds: Path | None,
    context: str | None,
    gateway: str | None,
    token_file: Path | None,
    patience: str,
    ids: int,
    zipf: float | None,
    processes: int,
    *,
    verify: bool,
) -> Plan:
    timeout_s = duration_s(patience, "--timeout")
    nats = None
    if gateway is None or server or creds or context:
        nats = nats_target(server, creds, context)
    target = gateway_target(gateway, token_file) if gateway else nats
    assert target
    where = gateway or context or ", ".join(nats.servers if nats else ())
    settings = {
        "target": where, "timeout": patience,
        "client ids": f"1 to {ids:,}{f', Zipf {zipf:g}' if zipf is not None else ''}",
        "generators": str(processes), "balances checked": "yes" if verify else "no",
    }  # fmt: skip
    expected = await asyncio.to_thread(balances, local=not (server or creds or context)) if verify else None
    return Plan(target, nats, timeout_s, ids, zipf, processes, expected, settings)


def _numbers(text: str, option: str) -> list[float]:
    if text == "auto":
        return []
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise BenchmarkError(f"{option} {text!r} is no list of numbers, for example 1000,2000,4000")
    return numbers


def _fail(problem: str, code: int = 1) -> None:
    print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(code)


if __name__ == "__main__":
    cli(prog_name="python -m benchmark")
