"""The peer in Go (`peers/`), built if Go is installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from local.process import ROOT, running

SOURCE: Final = ROOT / "benchmark" / "peers"
BINARY: Final = ROOT / ".bench" / "peer"
RUN_TIME: Final = ("GOGC", "GOMAXPROCS", "GOMEMLIMIT")
"""Variables that tune Go's runtime: https://pkg.go.dev/runtime#hdr-Environment_Variables"""


def run_time() -> dict[str, str]:
    """Return those variables of Go's runtime that are set here."""
    return {name: os.environ[name] for name in RUN_TIME if name in os.environ}


async def build(log: Path) -> str:
    """Build the peer; return why that failed, or ''."""
    go = shutil.which("go")
    if go is None:
        return "Go is not installed"
    command = [go, "build", "-C", str(SOURCE), "-o", str(BINARY), "."]
    async with running("go build", command, log, {**os.environ, "CGO_ENABLED": "0"}) as child:
        failed = await child.wait()
    return f"go build failed: {child.last_words()}" if failed else ""
