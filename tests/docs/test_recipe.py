"""The recipe for an endpoint, followed to the letter in a copy of the repository."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.process import ROOT
from tests.docs_check import copied
from tests.support.pages import blocks

PAGE = ROOT / "docs" / "recipes.md"
TOUCHED = (
    "tests/service/customer/endpoints/test_name.py",
    "tests/service/customer/endpoints/test_create_get.py",
    "tests/operations/test_interface.py",
    "tests/control_plane/test_desired.py",
)


async def run(folder: Path, *command: str) -> str:
    """Run a command in the copy; fail with its output if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-5000:]
    return output.decode()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy the repository, with the files and changes of the recipe."""
    folder = copied(tmp_path / "clone")
    found = blocks(PAGE)
    for block in found:
        if block.words[:1] == ("python",):
            (folder / block.words[1]).write_text(block.text)
    changes = [block.text for block in found if block.words == ("diff",)]
    assert len(changes) >= 4
    for change in changes:
        # --recount: the page's line numbers mean nothing. The copy is no git repository: nothing above it is touched.
        command = ["git", "apply", "--recount", "--unidiff-zero", "-"]
        env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        done = subprocess.run(command, cwd=folder, env=env, input=change, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + change
    return folder


@pytest.mark.timeout(400)
async def test_the_recipe_for_an_endpoint(clone: Path) -> None:
    for program in ("ruff", "lint-imports"):
        await run(clone, str(Path(sys.executable).parent / program), *(["check", "."] if program == "ruff" else []))
    await run(clone, sys.executable, "-m", "operations.interface")
    assert "customer.name" in (clone / "docs" / "interface.md").read_text()
    output = await run(clone, sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *TOUCHED)
    assert " passed" in output
