"""Run one measurement as a command: check options, measure, show, write, compare, judge."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import typer
from rich.console import Console

from benchmark.errors import BenchmarkError
from benchmark.options import OutputOptions
from benchmark.report import result as results
from benchmark.report.result import STDOUT, Result, RunResult
from benchmark.report.show import show, show_comparison
from benchmark.report.thresholds import Threshold, parse
from control_plane.errors import ProvisioningError
from local.process import LocalError

Work = Callable[[asyncio.Event], Awaitable[tuple[Result, str | None]]]
"""Measures until its event is set; returns the result, and a last line to print."""

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C or SIGTERM, the same as shells use."""

progress_console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def measure(
    work: Work, output: OutputOptions, fail_if: Sequence[str] | None, figures: Callable[[], Sequence[str]]
) -> Result:
    try:
        thresholds = [parse(text, figures()) for text in fail_if or ()]
        old = results.read(output.compare) if output.compare else None
        for path in (output.json, output.report):
            if path and path != STDOUT:
                results.check_writable(path)
        result, last = asyncio.run(_until_signal(work))
        console = _console(output)
        show(console, result)
        if output.json:
            results.write(result, output.json)
        if output.report:
            from benchmark.report.page import write_report  # noqa: PLC0415  imports the chart library

            write_report(result, output.report)
        if old and output.compare:
            show_comparison(console, old, result, output.compare.name)
        if last:
            console.print(last)
        if result.interrupted:
            fail("interrupted: what was measured until then is above, and is no verdict", INTERRUPTED)
        _judge(thresholds, result)
    except (BenchmarkError, LocalError, ProvisioningError) as error:
        fail(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail("interrupted before there was a result", INTERRUPTED)
    return result


def _judge(thresholds: Sequence[Threshold], result: Result) -> None:
    figures = result.figures()
    failed = [verdict for each in thresholds if (verdict := each.verdict(figures))]
    if failed:
        raise BenchmarkError("; ".join(failed))
    if isinstance(result, RunResult) and not result.measured.replies:
        raise BenchmarkError("no request succeeded; the table shows the errors")


def fail(problem: str, code: int = 1) -> None:
    print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(code)


def _console(output: OutputOptions) -> Console:
    """Return the console for everything but the JSON: standard error if the JSON goes to standard output."""
    stderr = output.json == STDOUT
    # Without a terminal, do not squeeze tables.
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 200
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, width=width)


async def _until_signal(work: Work) -> tuple[Result, str | None]:
    """Run `work`. The first Ctrl-C or SIGTERM stops it with a report; the second stops it at once."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))

    def signalled() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return await task
