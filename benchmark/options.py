"""Options shared by several commands, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

FAIL_IF = "Exit with 1 if this holds: FIGURE>BOUND, or >=, <, <=; times with a unit (50ms). Repeatable. Figures:"


@dataclass(frozen=True)
class Questions:
    """What to request, from which service and for which clients."""

    mix: Annotated[
        str,
        typer.Option(
            help="Endpoints by weight: balance=80,get=15,create=5, or adjust, statement. `create` leaves new clients, "
            "and `adjust` one point more each time."
        ),
    ] = "balance"
    timeout: Annotated[str, typer.Option(help="A request without a reply after this time has failed.")] = "5s"
    server: Annotated[str | None, typer.Option(help="NATS server(s), comma separated. Default: that of `make up`.")] = (
        None
    )
    creds: Annotated[
        Path | None,
        typer.Option(help="A .creds file. Default: that of `make up`'s user who may request the mix."),
    ] = None
    context: Annotated[
        str | None, typer.Option(help="A context of the nats CLI, by name, instead of server and creds.")
    ] = None
    gateway: Annotated[str | None, typer.Option(help="URL of an HTTP gateway: send over HTTP, not NATS.")] = None
    token_file: Annotated[
        Path | None, typer.Option(help="File with the gateway's token. Default: NATS_GATEWAY_TOKEN, then `make up`'s.")
    ] = None
    ids: Annotated[int, typer.Option(min=1, max=10_000_000, help="Client ids are 1 to this, in turn.")] = 1000
    zipf: Annotated[float | None, typer.Option(min=0.0, help="Draw ids at random, id k with weight 1/k**ZIPF.")] = None
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every balance with the table's (DDB_TABLE, AWS_*).")
    ] = False


@dataclass(frozen=True)
class LoadOptions(Questions):
    """How to send the load."""

    poisson: Annotated[bool, typer.Option("--poisson", help="Open loop: send at random times.")] = False
    processes: Annotated[int, typer.Option(min=1, max=64, help="Generator processes.")] = 2
    warm_up: Annotated[str, typer.Option(help="Run the same load unmeasured first, for this long; 0s: none.")] = "1s"


@dataclass(frozen=True)
class OutputOptions:
    """What to do with the result."""

    json: Annotated[Path | None, typer.Option("--json", help="Write the result to this file; `-` prints it.")] = None
    report: Annotated[Path | None, typer.Option(help="Write a page with charts to this file: self-contained HTML.")] = (
        None
    )
    compare: Annotated[Path | None, typer.Option(help="Compare with an older --json file: show the ratios.")] = None
