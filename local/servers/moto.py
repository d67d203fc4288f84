"""moto's server, which stands in for AWS: https://docs.getmoto.org/en/latest/docs/server_mode.html"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from local.process import accepts, claim_port, running


@asynccontextmanager
async def moto(log: Path) -> AsyncIterator[str]:
    """Run it on a free port of loopback; yield its URL. Raise `LocalError` when it does not start."""
    port = claim_port(0, "")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    async with running("moto", command, log) as child:
        await child.until(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}"
