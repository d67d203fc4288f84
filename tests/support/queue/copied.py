"""A copy of the example handler, made by the commands of its page."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from pathlib import Path
from typing import Final

from local.process import ROOT

_PAGE: Final = ROOT / "examples" / "queue_client" / "README.md"


def block(kind: str) -> str:
    """Return the page's only block of this kind."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    return str(found)


async def copied(folder: Path) -> Path:
    """Copy the program and its interface into `folder`, which is made; return the program's path."""
    lines = block("sh copy").replace("/tmp/handler", shlex.quote(str(folder))).splitlines()
    assert lines.pop() == ".venv/bin/python handler.py"
    for installs in ("python3 -m venv .venv", ".venv/bin/pip install --quiet grpcio grpcio-tools"):
        lines.remove(installs)
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    process = await asyncio.create_subprocess_exec("bash", "-euc", "\n".join(lines), cwd=ROOT)
    assert await process.wait() == 0
    return folder / "handler.py"
