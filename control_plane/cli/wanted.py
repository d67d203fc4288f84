"""Options that add to the declared resources.

Not in `__main__`: shell completion loads that module without a name, which a dataclass requires.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from control_plane.parts import PARTS

Secret = Annotated[bool, typer.Option("--secret", help="Also update the deployment's secret in AWS.")]


@dataclass(frozen=True)
class Wanted:
    """What the user asks for beyond the declared resources."""

    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help=f"Also provision for an optional role: {', '.join(part.name for part in PARTS)}. Repeatable.",
        ),
    ] = None
    stream_size: Annotated[
        str,
        typer.Option(
            help="Size of the archived stream, for example 5GiB. Default 1GiB; without it, a larger stream is kept."
        ),
    ] = ""
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="How many devices may be connected, each with 1 MiB of backlog. Default 1000; later, as before.",
        ),
    ] = None
    secret: Secret = False
