"""The peer in Go (`peers/`), which is built where Go is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from local.process import ROOT, running

SOURCE: Final = ROOT / "benchmark" / "peers"
BINARY: Final = ROOT / ".bench" / "peer"


async def build(log: Path) -> str:
    """Returns why there is no peer: empty when there is one."""
    go = shutil.which("go")
    if go is None:
        return "Go is not installed"
    command = [go, "build", "-C", str(SOURCE), "-o", str(BINARY), "."]
    async with running("go build", command, log, {**os.environ, "CGO_ENABLED": "0"}) as child:
        failed = await child.wait()
    return f"go build failed: {child.last_words()}" if failed else ""
