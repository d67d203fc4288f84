"""A demonstration on a system of its own: what it shows on the console, and what it checked, shown at its end."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from rich.console import Console
from rich.markup import escape

from local.process import LocalError
from local.servers.dynamodb import REGION
from local.system import Listener, Ports, System, local_system

ANY_PORT: Final = Ports(nats=0, dynamodb=0, gateway=0, health=0)


class Demo:
    """Shows what happens, and keeps the checks."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._checks: list[tuple[bool, str]] = []

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def note(self, line: str) -> None:
        self.console.print(f"  {escape(line)}")

    def check(self, passed: bool, what: str) -> None:
        self._checks.append((passed, what))

    def show(self) -> None:
        """Print each check: whether it passed, and what. Raise `LocalError` when one failed."""
        self.title("What was checked")
        for passed, what in self._checks:
            self.console.print(f"  {'[green]ok[/]    ' if passed else '[red]FAILED[/]'}  {escape(what)}")
        if failed := sum(not passed for passed, _ in self._checks):
            raise LocalError(f"{failed} of {len(self._checks)} checks failed")
        self.console.print(f"[bold green]all {len(self._checks)} checks passed[/]")


def sqs(url: str) -> Any:
    """Return boto3's client for moto's SQS."""
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106
    )


@asynccontextmanager
async def demonstration(
    console: Console, starting: str, *, tasks: int = 0, devices: Listener | None = None
) -> AsyncIterator[tuple[Demo, System]]:
    """Yield a local system in a temporary folder; afterwards stop it and show the checks.

    Raises `LocalError` when one failed, or a part does not start.
    """
    demo = Demo(console)
    console.print(f"[bold]Starting {starting}[/]")
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        async with local_system(Path(folder), ANY_PORT, tasks=tasks, devices=devices, say=demo.note) as system:
            yield demo, system
    demo.show()
