"""Options that several commands share, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

FAIL_IF = "Exit with 1 if so: FIGURE>BOUND, or >=, <, <=; times with their unit (50ms). Repeatable. Figures:"


@dataclass(frozen=True)
class Questions:
    """Whom to ask, for what and for which clients."""

    mix: Annotated[
        str, typer.Option(help="What is asked for, by weight: balance=80,get=15,create=5. `create` leaves new clients.")
    ] = "balance"
    timeout: Annotated[str, typer.Option(help="A request without a reply for this long has failed.")] = "5s"
    server: Annotated[
        str | None, typer.Option(help="NATS server(s), comma separated. Default: the one of `make up`.")
    ] = None
    creds: Annotated[
        Path | None,
        typer.Option(help="A .creds file. Default: of `make up`, user client, or registrar when the mix creates."),
    ] = None
    context: Annotated[
        str | None, typer.Option(help="A context of the nats CLI, by name, instead of server and creds.")
    ] = None
    gateway: Annotated[str | None, typer.Option(help="An HTTP gateway's address: ask over HTTP, not over NATS.")] = None
    token_file: Annotated[
        Path | None, typer.Option(help="The gateway's token. Default: NATS_GATEWAY_TOKEN, then the one of `make up`.")
    ] = None
    ids: Annotated[int, typer.Option(min=1, max=10_000_000, help="Client ids are 1 to this, in turn.")] = 1000
    zipf: Annotated[float | None, typer.Option(min=0.0, help="Draw the ids at random, id k with weight 1/k**ZIPF.")] = (
        None
    )
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every balance with the table's (DDB_TABLE, AWS_*).")
    ] = False


@dataclass(frozen=True)
class LoadOptions(Questions):
    """How to ask."""

    poisson: Annotated[bool, typer.Option("--poisson", help="An open loop's requests come at random moments.")] = False
    processes: Annotated[int, typer.Option(min=1, max=64, help="Generator processes.")] = 2
    warm_up: Annotated[str, typer.Option(help="The same load before it is measured, for so long; 0s: none.")] = "1s"


@dataclass(frozen=True)
class OutputOptions:
    """What becomes of the result."""

    json: Annotated[Path | None, typer.Option("--json", help="Write the result here, `-` to print it.")] = None
    report: Annotated[
        Path | None, typer.Option(help="Write a page with charts here: one self-contained HTML file.")
    ] = None
    compare: Annotated[Path | None, typer.Option(help="An older --json file: show the ratios.")] = None
