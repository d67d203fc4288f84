"""`python -m local`, as a person runs it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from control_plane.self_hosted import provider as self_hosted
from local.demos import balance as demo
from service.contracts import customer as contract
from tests.support.command import Run, command, finished, one_after_another
from tests.support.world import eventually

ANY_PORTS = ("--nats-port", "0", "--dynamodb-port", "0", "--gateway-port", "0", "--health-port", "0")


@dataclass
class Up:
    """A system that runs, in a shell with settings of its own."""

    run: Run
    state: Path


@pytest.fixture(scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    state = tmp_path_factory.mktemp("up") / "state"
    env = {"AWS_PROFILE": "nobody", "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    async with command("local", "up", "--state", str(state), *ANY_PORTS, **env) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output or "error" in run.output, within_s=30)
        yield Up(run, state)


async def test_this_shells_aws_profile_and_proxy_do_not_matter(up: Up) -> None:
    assert "error" not in up.run.output


async def test_a_local_tasks_health_page_is_on_loopback_alone(up: Up) -> None:
    found = re.search(r"curl http://127.0.0.1:(\d+)/metrics", up.run.output)
    assert found
    port = f"{int(found[1]):04X}"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    assert f"0100007F:{port}" in listening
    assert f"00000000:{port}" not in listening


async def test_one_state_is_one_systems_at_a_time(up: Up) -> None:
    state = ("--state", str(up.state))
    for code, output in await one_after_another("local", [("up", *state, *ANY_PORTS), ("reset", *state)]):
        assert (code, "is in use by another" in output) == (1, True), output
    assert (up.state / "keys" / "operator.seed").exists()


async def test_the_demo_passes_in_a_pipe() -> None:
    code, output = await finished("local", "demo")
    assert code == 0, output
    assert "it takes half a minute" in output.splitlines()[0]
    assert "all 19 checks passed" in output
    assert "\x1b" not in output, "no colour in a pipe"
    assert "FAILED" not in output


async def test_the_demo_passes_on_motos_server_where_npm_has_no_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("local.servers.engine._docker_has_image", lambda: False)
    output = StringIO()
    await demo.run(Console(file=output, width=200))
    assert "rates and latencies then mean nothing" in output.getvalue()
    assert "all 19 checks passed" in output.getvalue()


async def test_up_prints_what_to_do_next_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with command("local", "up", "--tasks", "2", "--state", str(state), *ANY_PORTS) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=30)
        url = re.search(r"nats --server (\S+) --creds (\S+) req customer.balance", run.output)
        assert url
        assert Path(url[2]).exists()
        context = f"nats context add customer-balance --server {url[1]} --creds {url[2]} --select"
        assert context in run.output
        assert "/v1/nats/subjects/customer.balance" in run.output
        assert len(re.findall(r"curl http://127.0.0.1:\d+/metrics", run.output)) == 2
        children = children_of(run.process.pid)
        assert len(children) == 4, "nats-server, the engine, two tasks"
        run.process.send_signal(signal.SIGINT)
        assert await run.process.wait() == 0
        await eventually(lambda: "stopped" in run.output)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()], "nothing is left running"
    for path in (*(state / "creds").iterdir(), *(state / "keys").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_up_hands_the_events_to_your_own_container(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with command("local", "up", "--queue", "--queue-port", "0", "--state", str(state), *ANY_PORTS) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=30)
        nats_url, listen = (re.search(at, run.output) for at in (r"nats --server (\S+)", r"SIDECAR=(\S+)"))
        assert nats_url
        assert listen
        creds = (state / "creds" / "client.creds").read_text()
        async with self_hosted.connected(nats_url[1], creds, inbox_prefix="_INBOX") as client:
            await client.request(contract.SUBJECT, b'{"client_id":"678"}')
        async with command("examples.queue_client", SIDECAR=listen[1], POLLINGINTERVAL="0") as handler:
            await eventually(lambda: "Message deleted successfully" in handler.output, within_s=20)
        assert f"{contract.SUBJECT}.678" in handler.output


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_the_state_survives_a_restart_and_reset_empties_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    seen = []
    for _ in range(2):
        async with command("local", "up", "--state", str(state), *ANY_PORTS) as run:
            await eventually(lambda run=run: "Ctrl-C stops everything" in run.output, within_s=30)
            seen.append((state / "creds" / "service.creds").read_text())
    assert seen[0] == seen[1]
    log = (state / "logs" / "service-1.log").read_text()
    assert log.count('"event":"seeded"') == 1
    assert log.count('"event":"serving"') == 2
    assert (await finished("local", "reset", "--state", str(state)))[0] == 0
    assert not state.exists()
    code, output = await finished("local", "reset", "--state", str(state))
    assert (code, "nothing to reset" in output) == (0, True)


async def test_reset_deletes_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    code, output = await finished("local", "reset", "--state", str(tmp_path))
    assert code == 1
    assert "nothing was deleted" in output
    assert (tmp_path / "precious").exists()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "operator.seed").write_text("mine")
    for code, output in await one_after_another(
        "local", [("reset", "--state", str(tmp_path)), ("up", "--state", str(tmp_path), *ANY_PORTS)]
    ):
        assert code == 1
        assert "is not empty and not a state folder" in output
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "keys"}


async def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    options = ("--nats-port", "--dynamodb-port", "--gateway-port", "--health-port", "--queue-port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = ("up", "--state", str(tmp_path / "state"), *ANY_PORTS, "--queue-port", "0", "--queue")
        command_lines = [
            [port if before == option else value for before, value in zip(("", *given), given, strict=False)]
            for option in options
        ]
        said = await one_after_another("local", command_lines)
    for option, (code, output) in zip(options, said, strict=True):
        assert code == 1
        complaint = output.strip().splitlines()[-1]
        assert complaint.startswith(
            f"error: port {port} cannot be used (Address already in use); give another with {option}"
        )
        assert "Traceback" not in output


async def test_a_child_that_crashes_is_named_and_the_rest_is_stopped(tmp_path: Path) -> None:
    async with command("local", "up", "--state", str(tmp_path / "state"), *ANY_PORTS) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=30)
        children = children_of(run.process.pid)
        victim = next(pid for pid in children if b"dynoxide" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(victim, signal.SIGKILL)
        assert await run.process.wait() == 1
        await eventually(lambda: "error: dynamodb ended with -9" in run.output)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


async def test_help_names_the_commands() -> None:
    code, output = await finished("local", "--help")
    assert code == 0
    for name in ("up", "demo", "reset"):
        assert name in output


async def test_reset_leaves_what_somebody_put_into_a_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with command("local", "up", "--tasks", "0", "--state", str(state), *ANY_PORTS) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=30)
        assert f"reset --state {state}" in run.output.replace("\n", " "), "the state in use, not the default"
    (state / "notes").write_text("x")
    code, output = await finished("local", "reset", "--state", str(state))
    assert (code, [path.name for path in state.iterdir()]) == (0, ["notes"]), output


@pytest.mark.parametrize("how", ["SIGHUP", "SIGKILL", "twice"])
async def test_nothing_is_left_however_it_ends(tmp_path: Path, how: str) -> None:
    async with command("local", "up", "--state", str(tmp_path / "state"), *ANY_PORTS) as run:
        await eventually(lambda: "Ctrl-C stops everything" in run.output, within_s=30)
        children = children_of(run.process.pid)
        assert len(children) == 3
        if how == "twice":
            os.kill(children[-1], signal.SIGSTOP)  # a child that does not end by itself
            run.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
            run.process.send_signal(signal.SIGINT)
        else:
            run.process.send_signal(signal.Signals[how])
        async with asyncio.timeout(15):
            await run.process.wait()
        await eventually(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()], within_s=5)


async def test_a_persons_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    lost = tmp_path / "lost"
    for folder in ("keys", "nats/accounts"):
        (lost / folder).mkdir(parents=True)
    (lost / ".customer-balance").touch()
    folder_key = tmp_path / "folder"
    (folder_key / "keys" / "operator.seed").mkdir(parents=True)
    (folder_key / ".customer-balance").touch()
    states = {
        tmp_path / "file": "is not a folder",
        tmp_path / "file" / "below": "Not a directory",
        lost: "operator.seed is missing, and the accounts",
        folder_key: "Is a directory",
    }
    twice = ("--nats-port", "31999", "--dynamodb-port", "31999", "--gateway-port", "0", "--health-port", "0")
    command_lines = [("up", "--state", str(state), *ANY_PORTS) for state in states]
    command_lines.append(("up", "--state", str(tmp_path / "state"), *twice))
    *said, (code, output) = await one_after_another("local", command_lines)
    assert (code, "port 31999 is given twice (--nats-port, --dynamodb-port)" in output) == (1, True), output
    assert await finished("local", *command_lines[0]) == said[0], "as in a process of its own"
    for says, (code, output) in zip(states.values(), said, strict=True):
        assert code == 1
        assert output.startswith("error: ")
        assert says in output
        assert len(output.splitlines()) == 1


async def test_a_damaged_state_is_repaired_or_named(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def up() -> str:
        async with command("local", "up", "--state", str(state), *ANY_PORTS) as run:
            await eventually(lambda: "Ctrl-C stops everything" in run.output or "error:" in run.output, within_s=30)
            return run.output

    assert "error:" not in await up()
    (state / "creds" / "gateway.token").write_text("\n")
    (state / "keys" / "operator.seed").chmod(0o644)
    for path in (state / "dynamodb").iterdir():
        path.unlink()
    output = await up()
    assert "operator.seed was readable by others" in output
    assert "the flag is cleared" in output
    assert stat.S_IMODE((state / "keys" / "operator.seed").stat().st_mode) == 0o600
    assert (state / "creds" / "gateway.token").read_text().startswith("nhg_")
    assert (state / "logs" / "service-1.log").read_text().count('"event":"seeded"') == 2
    (state / "creds" / "client.creds").write_bytes(b"\xff\xfe")
    output = await up()
    assert "client.creds is damaged: it is not text" in output
    assert "Traceback" not in output
