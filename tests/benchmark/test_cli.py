"""`python -m benchmark`, as a person and as a CI job runs it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.cost.figures import BUSY
from benchmark.cost.run import Profile, measure
from benchmark.report.thresholds import COST
from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import CLIENT
from local.gateway.server import gateway
from local.process import claim_port
from tests.support.command import command, finished, one_after_another
from tests.support.world import World, eventually

BENCHMARK = "benchmark"


@pytest.fixture
def options(world: World, tmp_path: Path) -> list[str]:
    creds = tmp_path / "client.creds"
    creds.touch(0o600)
    creds.write_text(world.creds("client"))
    return ["--server", world.nats_url, "--creds", str(creds), "--warm-up", "0s", "--processes", "1"]


async def test_a_closed_loop_as_the_original(world: World, options: list[str], tmp_path: Path) -> None:
    new = tmp_path / "new.json"
    async with world.task(MAX_IN_FLIGHT="4096"), world.task():
        code, output = await finished(
            BENCHMARK, "run", *options, "--processes", "2", "--verify", "--json", str(new),
            "--report", str(tmp_path / "new.html"), "--fail-if", "errors>0",
            DDB_TABLE=world.table, **world.servers.dynamodb_env,
        )  # fmt: skip
        assert code == 0, output
        last = output.splitlines()[-1]
        assert re.fullmatch(
            r"Total of 1000 requests, with max concurrency 1000, and request timeout 5s, completed in [0-9.]+m?s",
            last,
        )
        assert "Compared with the table: 1,000 balances right, 0 wrong." in output
        assert "verage" not in last, "the whole time over the number of requests is nobody's latency"
        body = json.loads(new.read_text())
        assert (body["measured"]["requests"], body["measured"]["replies"], body["measured"]["errors"]) == (
            1000, 1000, {},
        )  # fmt: skip
        assert sum(task["requests"] for task in body["tasks"]) == 1000
        assert len(body["tasks"]) == 2
        assert "<svg" in (tmp_path / "new.html").read_text()
        code, output = await finished(
            BENCHMARK, "run", *options, "--rate", "200", "--duration", "1s", "--poisson", "--compare", str(new),
            "--fail-if", "p99>1us", "--fail-if", "throughput>1",
        )  # fmt: skip
        assert code == 1
        assert re.search(r"^p99 +[0-9.]+ +[0-9.]+ +[0-9.]+$", output, re.MULTILINE)
        assert re.search(r"^error: p99>1us: it is [0-9.,]+ ms; throughput>1: it is [0-9.,]+$", output, re.MULTILINE)
        assert "Total of" not in output, "that line is the closed loop's"


async def test_errors_are_shown_by_kind(world: World, options: list[str]) -> None:
    async with world.task():
        code, output = await finished(
            BENCHMARK, "run", *options, "--ids", "1100", "--requests", "1100", "--concurrency", "300"
        )
    assert code == 0, output
    assert re.search(r"^404 NOT_FOUND +100$", output, re.MULTILINE)


async def test_ctrl_c_reports_what_was_measured_and_is_no_verdict(
    world: World, options: list[str], tmp_path: Path
) -> None:
    new = tmp_path / "new.json"
    endless = (*options, "--rate", "100", "--duration", "10m", "--json", str(new), "--fail-if", "p99>10s")
    async with world.task():
        async with command(BENCHMARK, "run", *endless) as run:
            await eventually(lambda: " done " in run.output, within_s=20)
            run.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(10):
                assert await run.process.wait() == 130
        assert "Interrupted: this is what was measured until then." in run.output
        assert "error: interrupted: what was measured until then is above, and is no verdict" in run.output
        assert "Traceback" not in run.output
        measured = json.loads(new.read_text())["measured"]
        assert measured["interrupted"]
        assert 0 < measured["replies"] == measured["requests"]


async def test_an_interrupted_sweep_says_nothing_about_the_limit(world: World, options: list[str]) -> None:
    async with world.task(), command(BENCHMARK, "sweep", *options, "--rates", "100,200", "--step", "10m") as run:
        await eventually(lambda: " done " in run.output, within_s=20)
        run.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await run.process.wait() == 130
    assert "Interrupted: the highest load was not found." in run.output
    assert "No step kept" not in run.output


async def test_a_sweep(world: World, options: list[str]) -> None:
    async with world.task():
        code, output = await finished(
            BENCHMARK, "sweep", *options, "--rates", "100,200", "--step", "1s", "--p99", "5s"
        )  # fmt: skip
        assert code == 0, output
        assert "The highest rate with p99 under 5000 ms: 200 requests/s." in output
        code, output = await finished(
            BENCHMARK, "sweep", *options, "--concurrencies", "1,10", "--step", "200ms", "--p99", "5s"
        )
        assert code == 0, output
        assert "The highest concurrency with p99 under 5000 ms: 10 requests in flight." in output


MISTAKES = [
    (["run", "--server", "nats://127.0.0.1:1"], "no connection to nats://127.0.0.1:1"),
    (["run", "--creds", "/nowhere.creds"], "/nowhere.creds cannot be read"),
    (["run", "--timeout", "soon"], "--timeout 'soon' is not a duration"),
    (["run", "--fail-if", "p99"], "--fail-if 'p99' is not FIGURE>BOUND"),
    (["run", "--compare", "/nowhere.json"], "/nowhere.json cannot be read"),
    (["run", "--gateway", "ftp://x"], "--gateway ftp://x is not an HTTP address"),
    (["run", "--fail-if", "speed>1"], "no figure speed; there are throughput, mean, p50, p90, p95, p99"),
    (["sweep", "--fail-if", "p99>1ms"], "no figure p99; there are best, throughput"),
    (["cost", "--fail-if", "p99>1ms"], "no figure p99; there are cpu_over_peer"),
    (["run", "--json", "/dev/null/x.json"], "/dev/null/x.json cannot be written"),
    (["run", "--report", "/dev/null/x.html"], "/dev/null/x.html cannot be written"),
    (["run", "--rate", "5", "--requests", "5"], "--requests is for a closed loop and --rate for an open one"),
    (["run", "--rate", "5", "--concurrency", "5"], "--concurrency is for a closed loop"),
    (["run", "--poisson"], "--poisson is for an open loop"),
    (["run", "--mix", "adjust=1,create=1"], "no user may request all of these; load them one after the other"),
    (["run", "--mix", "adjust", "--verify"], "--verify compares balances, and `adjust` changes them; leave one out"),
    (["run", "--mix", "balance=80,set=20"], "names: balance, get, create, adjust, statement"),
    (["sweep", "--rates", "1", "--concurrencies", "1"], "not both"),
    (["sweep", "--rates", "fast"], "--rates 'fast' is not a list of numbers"),
]


HELP = [["run", "--help"], ["sweep", "--help"], ["cost", "--help"]]
Said = asyncio.Future[dict[tuple[str, ...], tuple[int, str]]]
"""Command line -> exit code and output."""


@pytest.fixture(scope="module", autouse=True)
async def said() -> Said:
    """What comes of each command line: in one process, which runs beside this module's tests."""
    command_lines = [tuple(arguments) for arguments in (*(arguments for arguments, _ in MISTAKES), *HELP)]

    async def run_them() -> dict[tuple[str, ...], tuple[int, str]]:
        return dict(zip(command_lines, await one_after_another(BENCHMARK, command_lines), strict=True))

    return asyncio.create_task(run_them())


async def test_a_mistake_of_a_process_of_its_own_is_one_line() -> None:
    code, output = await finished(BENCHMARK, "run", "--timeout", "soon")
    assert (code, output) == (1, "error: --timeout 'soon' is not a duration; write 5s, 250ms or 1m30s\n")


@pytest.mark.parametrize(("arguments", "problem"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
async def test_a_mistake_is_one_line(arguments: list[str], problem: str, said: Said) -> None:
    code, output = (await said)[tuple(arguments)]
    assert code == 1
    assert len(output.splitlines()) == 1
    assert output.startswith("error: ")
    assert problem in output


async def test_a_closed_loop_of_a_duration_as_json(world: World, options: list[str]) -> None:
    async with world.task():
        command_line = [sys.executable, "-m", BENCHMARK, "run", *options, "--duration", "600ms", "--concurrency", "3"]
        done = await asyncio.to_thread(
            subprocess.run, [*command_line, "--json", "-"], capture_output=True, text=True, timeout=60, check=True
        )
    body = json.loads(done.stdout)
    assert body["settings"]["duration"] == "600ms"
    assert 0.5 < body["measured"]["elapsed_s"] < 3
    assert body["measured"]["replies"] > 3
    assert not Path("-").exists()


async def test_a_mixed_load_creates_and_reads(world: World, options: list[str], tmp_path: Path) -> None:
    mix = ["--mix", "balance=50,get=40,create=10", "--requests", "300", "--concurrency", "10"]
    new, creds = tmp_path / "new.json", tmp_path / "registrar.creds"
    creds.touch(0o600)
    creds.write_text(world.creds("registrar"))
    async with world.task():
        before = len(world.rows())
        as_registrar = ["--server", world.nats_url, "--creds", str(creds), "--warm-up", "200ms"]
        code, output = await finished(
            BENCHMARK, "run", *as_registrar, *mix, "--json", str(new), "--fail-if", "create.errors>0"
        )
        assert code == 0, output
        endpoints = {each["name"]: each for each in json.loads(new.read_text())["measured"]["endpoints"]}
        assert sum(each["replies"] for each in endpoints.values()) == 300
        assert all(each["latency"]["p99_ms"] > 0 for each in endpoints.values())
        assert len(world.rows()) - before >= endpoints["create"]["replies"] > 10
        assert re.search(r"^create +[0-9]+ +0 +[0-9.]+ ms", output, re.MULTILINE)
        code, output = await finished(BENCHMARK, "run", *options, *mix)
    assert (code, output.splitlines()[-1]) == (
        1, "error: these credentials may not send customer.create; give those of a user that may, or another --mix",
    )  # fmt: skip


async def test_a_mixed_load_adjusts_and_lists(world: World, tmp_path: Path) -> None:
    """Each adjustment is one of its own, and is in a statement then."""
    mix = ["--mix", "adjust=50,statement=30,balance=20", "--requests", "300", "--concurrency", "10"]
    new, creds = tmp_path / "new.json", tmp_path / "teller.creds"
    creds.touch(0o600)
    creds.write_text(world.creds("teller"))
    world.put_rows({str(number): 100 for number in range(1, 11)})
    async with world.task(**await world.with_adjustments()):
        as_teller = ["--server", world.nats_url, "--creds", str(creds), "--warm-up", "0s", "--ids", "10"]
        fails = ["--fail-if", "adjust.errors>0", "--fail-if", "statement.errors>0"]
        code, output = await finished(BENCHMARK, "run", *as_teller, *mix, *fails, "--json", str(new))
        assert code == 0, output
    endpoints = {each["name"]: each["replies"] for each in json.loads(new.read_text())["measured"]["endpoints"]}
    assert set(endpoints) == {"adjust", "statement", "balance"}
    assert sum(endpoints.values()) == 300
    assert sum(world.rows().values()) == 1000 + endpoints["adjust"]
    assert len(world.ledger()) == endpoints["adjust"] > 50


async def test_a_gateway_that_is_not_there_and_one_that_refuses(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("nhg_wrong")
    gateway_options = ["--token-file", str(token), "--warm-up", "0s", "--requests", "5"]
    away = f"http://127.0.0.1:{claim_port(0, '')}"
    code, output = await finished(BENCHMARK, "run", "--gateway", away, *gateway_options)
    assert code == 1
    assert re.fullmatch(r"error: no connection to http://[^;]*; is the gateway running\?\n", output)
    async with gateway(0, world.nats_url, {"nhg_right": world.creds("client")}) as port:
        code, output = await finished(BENCHMARK, "run", "--gateway", f"http://127.0.0.1:{port}", *gateway_options)
    assert code == 1
    assert re.search(r"^HTTP 401 .* 5$", output, re.MULTILINE)
    assert output.endswith("error: no request succeeded; the table shows the errors\n")


async def test_credentials_of_somewhere_else(world: World, tmp_path: Path) -> None:
    account, creds = Key.account(), tmp_path / "other.creds"
    creds.touch(0o600)
    creds.write_text(claims.mint_creds(CLIENT, account, account=account.public))
    code, output = await finished(BENCHMARK, "run", "--server", world.nats_url, "--creds", str(creds))
    assert code == 1
    assert re.fullmatch(r"error: nats://[^ ]+ refuses these credentials \(.*\); give its own with .*\n", output)


async def test_help_names_the_figures_that_there_are(said: Said) -> None:
    for verb, there, not_there in (
        ("run", "p95", "cpu_over_peer"),
        ("sweep", "best", "p95"),
        ("cost", "cpu_over_peer", "p95"),
    ):
        code, output = (await said)[verb, "--help"]
        assert code == 0
        figures = output.partition("Figures:")[2].partition("╰")[0]
        assert there in figures
        assert not_there not in figures


async def test_nobody_serves(options: list[str]) -> None:
    code, output = await finished(BENCHMARK, "run", *options)
    assert (code, output) == (
        1, "error: no task answers $SRV.STATS.customer; is the service running, with these credentials?\n",
    )  # fmt: skip


async def test_what_a_request_costs_is_measured_for_each_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are the machine's; here: that each of them is there, and is one of a program that served."""
    monkeypatch.setattr(shutil, "which", lambda _: None)  # to build the peer takes a minute
    profile = Profile(rounds=1, step_s=0.1, concurrencies=(1, BUSY), tasks=(1,), rows=(1_000, 2_000),
                    memory_after=(500, 1_000), online=50, connections=20, loaded=1_000, adjusting=20,
                    warm_up_s=0.1)  # fmt: skip
    found = await measure(profile, Console(quiet=True), asyncio.Event())
    assert [(row.program, row.concurrency) for row in found.rows] == [
        *((program, 1) for program in ("echo", "service", "baseline")),
        *((program, BUSY) for program in ("echo", "service", "service, traceparent", "service, 1 % odd", "baseline")),
    ]
    assert found.left_out == "Go is not installed"
    assert all(row.load_cpu_us > 0 for row in found.rows)
    assert all(row.throughput > 0 and row.server_cpu_us > 0 and row.memory_mib > 20 for row in found.rows)
    assert [(row.of, row.size) for row in found.scale] == [("tasks", 1), ("rows", 1000), ("rows", 2000)]
    assert tuple(claim.name for claim in found.claims) == COST
    assert found.figures()["over_plain"] > 2
    assert found.figures()["queue_of_pull"] > 0.1
    assert found.figures()["archive_of_writes"] > 0.1
    assert found.figures()["archive_slow_busy"] > 0.1
    assert found.figures()["devices_of_writing"] > 0.1
    assert found.figures()["load_of_writes"] > 0.1
    assert found.figures()["adjust_of_transactions"] > 0.1
    assert found.figures()["adjust_one_client"] > 1
    assert found.figures()["balance_beside_adjust"] > 0.1
