"""Write the balances of a table, one line per client, in the form that `operations.load` reads.

The table is read by several scans at a time: each row consistently, but not all at one moment; this uses read capacity
of the table. With --from, the balances come from the files of a point-in-time export to S3 instead: all are of one
moment, and no read capacity is used.

Exit codes: 0 all rows are written; 3 a row was left out, because it has no valid id, balance, name or date; 2 an
invalid argument; 1 any other failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from operations.export.files import Export
from operations.export.rows import TEXTS, Format, Lines
from operations.load.show import Report, output
from operations.options import Balance, Key, attributes_of
from operations.scan import Progress, scan
from operations.table import table_id
from service.dynamodb.client import DynamoDB
from service.runtime.errors import ServiceError

LEFT_OUT: Final = 3
INTERRUPTED: Final = 130
TIMEOUT_S: Final = 30.0

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(help=__doc__)
def main(
    table: Annotated[str, typer.Option(envvar="DDB_TABLE", help="The table of the balances.")] = "",
    from_: Annotated[
        str, typer.Option("--from", help="An export instead: the folder or s3:// prefix with manifest-summary.json.")
    ] = "",
    key: Key = "",
    balance: Balance = "",
    to: Annotated[
        Path | None, typer.Option(help="The file to write; it appears when it is whole. Default: stdout.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="CSV with a header, or JSON lines.")] = "csv",
    segments: Annotated[int, typer.Option(min=1, max=1000, help="Scans at a time.")] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="On stderr, JSON objects: rows left out, and the sums.")
    ] = False,
) -> None:
    if not (table or from_):
        raise typer.BadParameter("give the table, or set DDB_TABLE", param_hint="--table")
    attributes = attributes_of(key, balance)

    def tell(client_id: str, column: str, reason: str) -> None:
        told = {"client_id": client_id, "column": column, "reason": reason}
        text = f"client {client_id!r} is left out: {column} {reason}"
        print(json.dumps(told, ensure_ascii=False) if as_json else text, file=sys.stderr)

    try:
        with _written(to) as file:
            lines = Lines(file, form, attributes, tell)
            if from_:
                for rows in Export(from_).rows():
                    lines.take(rows)
            else:
                asyncio.run(_scan(table, lines, segments))
    except ServiceError as error:
        Report(as_json=False).error(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    sums = {"clients": lines.rows, "points": lines.points, "left_out": lines.odd}
    text = f"{lines.rows:,} clients with {lines.points:,} points" + (f"; {lines.odd:,} left out" if lines.odd else "")
    print(json.dumps(sums) if as_json else text, file=sys.stderr)
    if lines.odd:
        raise typer.Exit(LEFT_OUT)


async def _scan(table: str, lines: Lines, segments: int) -> None:
    api = DynamoDB.configured(TIMEOUT_S)
    progress = Progress()
    try:
        await table_id(api, table, lines.attributes.key)
        names = (lines.attributes.key, lines.attributes.balance, *TEXTS)
        await scan(api, table, "DDB_TABLE", lines.take, progress, segments=segments, only=names)
    finally:
        progress.end()
        api.close()


@contextmanager
def _written(to: Path | None) -> Iterator[TextIO]:
    """Yield a file that gets its name only once it is complete, or standard output. Raises `ServiceError`."""
    if to is None:
        if sys.stdout is None:
            raise ServiceError("standard output is closed", "give --to, or a pipe")
        with output():
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
            yield sys.stdout
            sys.stdout.flush()
        return
    beside: Path | None = None
    try:
        if not to.exists() or to.is_file():  # a device or a FIFO cannot be replaced: write to it directly
            to = Path(os.path.realpath(to))  # keep a symbolic link
            beside = to.with_name(f"{to.name}.{os.getpid()}.new")
        with (beside or to).open("w", encoding="utf-8", newline="\n") as file:
            yield file
        if beside:
            beside.replace(to)
    except OSError as error:
        raise ServiceError(f"{to} cannot be written ({error.strerror})", "give another --to") from None
    finally:
        if beside:
            with contextlib.suppress(OSError):
                beside.unlink()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly with `| head`
    cli(prog_name="python -m operations.export")
