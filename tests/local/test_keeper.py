"""`make up` with a task that ends, with ports in use, and in a folder whose name has a space."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Run, command, one_after_another
from tests.support.world import eventually, get


async def says(run: Run, text: str) -> None:
    await eventually(lambda: text in run.output, within_s=40)


async def test_a_task_that_ends_is_replaced_and_its_cause_is_printed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with command("local", "up", "--tasks", "2", "--queue", "--free-ports", "--state", str(state)) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=40)
        found = re.findall(r"curl (\S+/metrics) +# (\S+), process (\d+)", run.output)
        assert [name for _, name, _ in found] == ["service-1", "service-2", "queue"]
        for number, (url, name, pid) in zip((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL), found, strict=True):
            os.kill(int(pid), number)
            told = "was killed by SIGKILL" if number == signal.SIGKILL else "ended with 0"
            await says(run, f"{name}, process {pid}, {told}; another takes its place")
            await says(run, f"{name} is ready again, process")
            assert (await get(url))[0] == 200
        assert run.process.returncode is None


async def test_the_commands_can_be_pasted_where_a_path_has_a_space(tmp_path: Path) -> None:
    state = tmp_path / "a state"
    async with command("local", "up", "--tasks", "1", "--queue", "--free-ports", "--state", str(state)) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=40)
        text = run.output[run.output.index("In another terminal") :].replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("  ")]
    assert commands
    for words in commands:
        for option in ("--creds", "--operator", "--system-creds", "--state"):
            if option in words:
                assert Path(words[words.index(option) + 1]).is_relative_to(state), words


@contextlib.contextmanager
def taken(count: int) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
            each.listen()
        yield [each.getsockname()[1] for each in sockets]


async def test_all_ports_in_use_are_named_before_anything_starts(tmp_path: Path) -> None:
    options = ("--nats-port", "--dynamodb-port", "--gateway-port", "--health-port", "--queue-port")
    state = tmp_path / "state"
    with taken(len(options)) as ports:
        given = [word for option, port in zip(options, ports, strict=True) for word in (option, str(port))]
        ((code, output),) = await one_after_another("local", [("up", "--queue", "--state", str(state), *given)])
    assert code == 1
    (line,) = output.strip().splitlines()
    for option, port in zip(options, ports, strict=True):
        assert f"{port} ({option}" in line
    assert "--free-ports" in line
    assert not state.exists()


@pytest.mark.parametrize("option", ["--nats-port", "--queue-port"])
async def test_with_free_ports_none_is_in_the_way(tmp_path: Path, option: str) -> None:
    with taken(1) as (port,):
        arguments = ("up", "--tasks", "0", "--queue", "--state", str(tmp_path / "state"), option, str(port))
        async with command("local", *arguments, "--free-ports") as run:
            await eventually(lambda: "Ctrl-C stops everything" in run.output or "error" in run.output, within_s=40)
            assert "error" not in run.output
