"""What a shell and a disk do to the commands: one line names the cause, and no traceback is shown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from local.process import ROOT
from tests.operations.loading import csv_of, environment, load, numbered, written
from tests.operations.test_export import export
from tests.support.world import World

FULL = (
    "error: standard output cannot be written (No space left on device); see its disk, or the program that reads it\n"
)
SPILLS = (
    "import runpy, sys; from operations.load import twice; twice.SPILLED = 2; sys.argv[0] = 'load'\n"
    "runpy.run_module('operations.load', run_name='__main__')\n"
)
"""Runs the load so that few rows come to the temporary file."""


async def shell(line: str, env: Mapping[str, str]) -> tuple[int, str]:
    """Return exit code and errors of a line of sh, in which $python is this one."""
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", line, cwd=ROOT, env={"python": sys.executable, "spills": SPILLS, **env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    return process.returncode or 0, errors.decode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("load - --dry-run <&-", "error: standard input is closed; pipe the rows into it, or name a file\n"),
        ("load - --dry-run 0>$folder/out", "error: standard input cannot be read (Bad file descriptor); pipe the rows"),
        (f"load {'x' * 300} --dry-run", "x cannot be read (File name too long); correct the path\n"),
        ("load /proc/self/mem --dry-run", "error: /proc/self/mem cannot be read (Input/output error); see its disk"),
        ("load $folder/good.csv --dry-run >/dev/full", FULL),
        ("load $folder/bad.csv --dry-run >/dev/full", FULL),
        ("export --from $folder/export >/dev/full", FULL),
        ("export --from $folder/export >&-", "error: standard output is closed; give --to, or a pipe\n"),
    ],
)
async def test_a_mistake_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    written(tmp_path / "good.csv", csv_of(numbered(3)))
    written(tmp_path / "bad.csv", csv_of(["x,y"] * 3000))
    export(tmp_path / "export", [{"id": {"S": str(number)}, "client_balance": {"N": "5"}} for number in range(5000)])
    code, errors = await shell(f'exec "$python" -m operations.{line}', {"folder": str(tmp_path)})
    assert (code, said in errors, errors.count("\n")) == (1, True, 1), errors


@pytest.mark.parametrize(
    ("limit", "run", "cause"),
    [("0", "-m operations.load", "No usable temporary directory found"), ("8", '-c "$spills"', "File too large")],
)
async def test_a_temporary_folder_that_cannot_be_written_is_named(
    tmp_path: Path, limit: str, run: str, cause: str
) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(20_000)))
    line = f'ulimit -f {limit}; exec "$python" {run} {path} --dry-run'
    code, errors = await shell(line, {"TMPDIR": str(tmp_path)})
    assert (code, errors.count("\n")) == (1, 1), errors
    assert errors.startswith(f"error: temporary folder {tmp_path} cannot be written ({cause}"), errors
    assert "set TMPDIR to a folder that has 16 free bytes for each row" in errors


async def test_a_load_whose_result_cannot_be_printed_is_over(world: World, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    line = f'exec "$python" -m operations.load {path} --no-seed-flag >/dev/full'
    assert await shell(line, environment(world)) == (1, FULL)
    assert (world.rows(), [file.name for file in tmp_path.iterdir()]) == (numbered(3), ["rows.csv"])


async def test_a_checkpoint_is_not_the_source(world: World, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    for line in (f"{path} --checkpoint {path}", f"- --checkpoint {path} <{path}"):
        code, errors = await shell(f'exec "$python" -m operations.load {line}', environment(world))
        assert (code, "it is the source of the rows" in " ".join(errors.split())) == (2, True), errors
    assert Path(path).read_text() == csv_of(numbered(3))


async def test_the_checkpoint_of_another_load_of_the_file_is_not_touched_while_it_is_written(
    world: World, tmp_path: Path
) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    other = tmp_path / "rows.csv.checkpoint.new"
    other.write_text("another")
    assert (await load(world, path, "--no-seed-flag"))[0] == 0
    assert other.read_text() == "another"
    assert {file.name for file in tmp_path.iterdir()} == {"rows.csv", other.name}
