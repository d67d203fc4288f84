"""Load balances: one line per client, `client_id,balance[,name,created_at]`, as CSV with a header or as JSON lines.

All lines are checked first, and nothing is written if one is bad (from a pipe, the lines before it are written). A
client that exists is left unchanged; with --replace it gets the file's balance, and the file's name and date if there
are any, unless it has adjustments. After Ctrl-C or a failure, the same command continues where it stopped.

Exit codes: 0 all rows are in the table; 3 a line was bad or refused; 2 an invalid argument; 1 any other failure.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
import uvloop

from operations.load.read import check
from operations.load.run import Outcome, Plan, load
from operations.load.show import Progress, Report, duration
from operations.load.source import File, Pipe, Source, source_of
from operations.options import Balance, Key, attributes_of
from service.runtime.errors import ServiceError

BAD: Final = 3
INTERRUPTED: Final = 130

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(help=__doc__)
def main(
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="A file, `-` for a pipe, or s3://BUCKET/KEY.")],
    table: Annotated[str, typer.Option(envvar="DDB_TABLE", help="The table of the balances.")] = "",
    key: Key = "",
    balance: Balance = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every bad line; write nothing.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what is there, not only add.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where to keep how far it is. Default: ROWS.checkpoint, beside a file.")
    ] = None,
    seed_flag: Annotated[
        bool,
        typer.Option(
            "--seed-flag/--no-seed-flag",
            help="Set the flag that keeps tasks from adding random rows (NATS_URL, NATS_CREDENTIALS).",
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object for each bad line, and for the result.")
    ] = False,
) -> None:
    report = Report(as_json=as_json)
    began_s = time.monotonic()
    kept: Path | None = checkpoint
    attributes = attributes_of(key, balance)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # what the service's NATS logs
    try:
        source = source_of(rows)
        if dry_run:
            raise typer.Exit(uvloop.run(_dry_run(source, report)))
        if not table:
            raise typer.BadParameter("give the table, or set DDB_TABLE", param_hint="--table")
        if isinstance(source, File):
            kept = checkpoint or Path(f"{source.name}.checkpoint")
        if kept and _is_source(kept, source):
            raise typer.BadParameter("it is the source of the rows", param_hint="--checkpoint")
        plan = Plan(table, attributes, replace, kept, seed_flag)
        outcome = uvloop.run(load(source, plan, report))
        report.kept = None  # the load is complete, even if its result cannot be printed
        _tell(outcome, time.monotonic() - began_s, report)
    except ServiceError as error:
        report.error(f"{error}{_next(report)}")
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        report.error(f"stopped{_next(report)}")
        raise typer.Exit(INTERRUPTED) from None


async def _dry_run(source: Source, report: Report) -> int:
    progress = Progress("checking", source.size)
    found = await check(source, report.line, progress.show)
    progress.end()
    text = f"{found.rows:,} rows are good" + (f", {found.bad:,} lines are bad" if found.bad else "")
    report.result(text, rows=found.rows, bad=found.bad)
    return BAD if found.bad else 0


def _tell(outcome: Outcome, seconds: float, report: Report) -> None:
    done = outcome.done
    rows = done.written + done.there + done.refused
    new = rows - outcome.resumed
    parts = [f"{done.written:,} rows written"]
    if done.there:
        lost = ", or were written by a call whose answer was lost" if outcome.lost else ""
        parts.append(f"{done.there:,} were there{lost}")
    if done.refused:
        parts.append(f"{done.refused:,} refused")
    if outcome.resumed:
        parts.append(f"{outcome.resumed:,} of these by earlier runs")
    text = f"{'; '.join(parts)}; in {duration(seconds)}, {new / max(seconds, 1e-9):,.0f} rows/s"
    report.result(
        text, written=done.written, there=done.there, refused=done.refused, earlier=outcome.resumed,
        seconds=round(seconds, 3),
    )  # fmt: skip
    if outcome.bad:
        stopped = "a line is bad: nothing after it was written" if rows else "a line is bad: nothing was written"
        report.error("clients with several lines have the balance of one of them" if outcome.is_whole else stopped)
    if outcome.bad or done.refused:
        raise typer.Exit(BAD)


def _is_source(checkpoint: Path, source: Source) -> bool:
    try:
        found = os.fstat(sys.stdin.fileno()) if isinstance(source, Pipe) else Path(source.name).stat()
        return os.path.samestat(checkpoint.stat(), found)
    except OSError:  # there is no checkpoint yet; or the source is in S3
        return False


def _next(report: Report) -> str:
    return f"\nrun the same command again to go on ({report.kept} says where it is)" if report.kept else ""


if __name__ == "__main__":
    cli(prog_name="python -m operations.load")
