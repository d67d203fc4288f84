"""`python -m control_plane`, as a person and a script run it, against the fake and against the real server."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import typer
from typer.testing import CliRunner

from control_plane.__main__ import cli
from control_plane.errors import ProvisioningError
from control_plane.files import write_private
from control_plane.self_hosted import provider as self_hosted
from local.process import ROOT
from service.contracts.customer import BUCKET, INBOX_PREFIX, SEED_DONE, SEED_KEY
from tests.support.synadia.fake import TOKEN, FakeSynadia, fake_synadia
from tests.support.world import Servers


@dataclass
class Cli:
    config: Path
    env: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    async def __call__(self, *arguments: str, options: bool = True) -> tuple[int, str, str]:
        """In this process, where it starts at once."""
        command_line = [*arguments, "--config", str(self.config), *(self.options if options else ())]
        ran = await asyncio.to_thread(CliRunner().invoke, cli, command_line, env=self.env)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
        return self._safe(ran.exit_code, ran.stdout, ran.stderr)

    async def process(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """In one of its own: each command that asks, and another of each test."""
        command = [sys.executable, "-m", "control_plane", *arguments, "--config", str(self.config), *self.options]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env={"PATH": os.environ["PATH"], **self.env}, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, error = await process.communicate(stdin.encode())
        return self._safe(process.returncode or 0, output.decode(), error.decode())

    def _safe(self, code: int, output: str, error: str) -> tuple[int, str, str]:
        assert "Traceback" not in output + error
        assert TOKEN not in output + error
        assert "SU" + "A" not in error
        return code, output, error


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[tuple[Cli, FakeSynadia]]:
    async with fake_synadia() as fake:
        env = {"SYNADIA_API": fake.url, "SYNADIA_TOKEN": TOKEN}
        yield Cli(tmp_path / "config", env), fake


@pytest.fixture
def own(servers: Servers, tmp_path: Path) -> Cli:
    write_private(tmp_path / "operator.seed", servers.operator.seed)
    write_private(tmp_path / "system.creds", servers.system_creds)
    place = ("--server", servers.nats_url, "--operator", str(tmp_path / "operator.seed"))
    creds = ("--system-creds", str(tmp_path / "system.creds"))
    return Cli(tmp_path / "config", {}, (*place, *creds))


async def test_the_life_of_an_account_on_the_cloud(cloud: tuple[Cli, FakeSynadia]) -> None:
    person, fake = cloud
    code, output, _ = await person("create", "--initials", "tt", "--dry-run")
    assert code == 0
    assert "would create  account POC-TT" in output
    assert len(fake.accounts) == 1
    planned = [line.removeprefix("would create  ") for line in output.splitlines() if line.startswith("would create")]
    code, output, _ = await person.process("status", "--initials", "TT")
    assert code == 3
    code, output, _ = await person.process("create", "--initials", "TT")
    assert code == 0
    made = [line.removeprefix("created  ") for line in output.splitlines() if line.startswith("created")]
    assert made == planned
    assert "user service" in made
    code, output, _ = await person("create", "--initials", "TT")
    assert (code, output) == (0, "nothing to do: account POC-TT is as wanted\n")
    code, output, _ = await person("status", "--initials", "TT", "--json")
    assert code == 0
    assert json.loads(output)["as_wanted"] is True
    code, output, _ = await person("list", "--json")
    assert [(account["name"], account["is_system"]) for account in json.loads(output)] == [
        ("SYS", True),
        ("POC-TT", False),
    ]
    before = (person.config / "POC-TT" / "gateway.creds").read_text()
    with_tokens = len(fake.tokens)
    code, output, _ = await person("rotate", "--user", "gateway", "--initials", "TT")
    assert code == 0
    assert (person.config / "POC-TT" / "gateway.creds").read_text() != before
    assert len(fake.tokens) == with_tokens + 1, "a new key needs a new token"
    assert (person.config / "POC-TT" / "gateway.token").read_text().strip() == fake.tokens[-1]
    assert (await person("status", "--initials", "TT"))[0] == 0
    code, output, _ = await person("delete", "--initials", "TT", "--yes")
    assert code == 0
    assert "removed  account POC-TT" in output
    code, output, _ = await person("delete", "--initials", "TT", "--yes")
    assert (code, output) == (0, "nothing to do: there is no account POC-TT\n")
    assert not list(person.config.glob("*/*"))


async def test_a_rotation_may_reach_the_deployments_secret(cloud: tuple[Cli, FakeSynadia], moto: str) -> None:
    person, _ = cloud
    aws = {"AWS_ENDPOINT_URL": moto, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}
    person.env.update(aws)
    await person("create", "--initials", "TT")
    code, output, _ = await person.process("secret", "push", "--initials", "TT", "--json")
    assert code == 0
    pushed = json.loads(output)
    code, output, _ = await person("rotate", "--user", "service", "--secret", "--initials", "TT")
    assert code == 0
    assert pushed["arn"] in output
    client = boto3.client(
        "secretsmanager", endpoint_url=moto, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    value = client.get_secret_value(SecretId=pushed["name"])["SecretString"]
    client.close()
    assert base64.b64decode(value).decode() == (person.config / "POC-TT" / "service.creds").read_text()
    assert value not in output
    for expected in ("deleted TT/NATSCreds\n", "nothing to do: there is no secret TT/NATSCreds\n"):
        assert await person("secret", "delete", "--initials", "TT") == (0, expected, "")


async def test_drift_is_shown_side_by_side(cloud: tuple[Cli, FakeSynadia]) -> None:
    person, fake = cloud
    await person("create", "--initials", "TT")
    (stream,) = fake.streams.values()
    stream["max_bytes"] = 5
    fake.user("client").settings["pub"]["allow"] = [
        "customer.balance.>",
        *(f"a.rather.long.subject.{n}" for n in "abc"),
    ]
    code, output, _ = await person.process("status", "--initials", "TT")
    assert code == 3
    assert "drifted    stream customer-balances\n  * max_bytes  wanted 10485760, there 5\n" in output
    assert "  * pub.allow\n    wanted  customer.balance\n" in output
    assert "    there   customer.balance.>\n            a.rather.long.subject.a\n" in output
    assert max(len(line) for line in output.splitlines() if "config" not in line and "note" not in line) <= 80
    _, planned, _ = await person("create", "--initials", "TT", "--dry-run")
    _, output, _ = await person("create", "--initials", "TT")
    assert "changed  stream customer-balances: max_bytes 5 -> 10485760" in output
    changed = [line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith("changed")]
    assert changed == [line.split(maxsplit=2)[2] for line in planned.splitlines() if line.startswith("would change")]
    assert (await person("status", "--initials", "TT"))[0] == 0


async def test_delete_asks_for_the_name(cloud: tuple[Cli, FakeSynadia]) -> None:
    person, fake = cloud
    await person("create", "--initials", "TT")
    for answer in ("", "yes\n", "POC-XX\n"):
        code, output, error = await person.process("delete", "--initials", "TT", stdin=answer)
        assert code == 1
        assert "stream customer-balances" in output
        assert "nothing was removed" in error
        assert len(fake.accounts) == 2
    code, _, _ = await person.process("delete", "--initials", "TT", stdin="POC-TT\n")
    assert code == 0
    assert len(fake.accounts) == 1


async def test_the_token_may_be_in_a_file(cloud: tuple[Cli, FakeSynadia]) -> None:
    person, _ = cloud
    del person.env["SYNADIA_TOKEN"]
    code, _, error = await person("list")
    assert code == 1
    assert error.startswith("error: there is no personal access token; make one")
    write_private(person.config / "control-plane-agent.token", TOKEN + "\n")
    assert (await person("list"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("create", "--initials", "1"), 2, "will not do"),
        (("rotate", "--user", "nobody", "--initials", "TT"), 2, "there is no user nobody; give one of service, client"),
        (("rotate", "--user", "client", "--secret", "--initials", "TT"), 2, "leave --secret out for client"),
        (("rotate", "--user", "client", "--initials", "TT"), 1, "there is no account POC-TT; run create"),
        (("create", "--with", "nothing", "--initials", "TT"), 2, "there is no part nothing"),
        (("list", "--system", "other"), 2, "there is no system other; give --system one of: NGS"),
        (("list", "--server", "nats://127.0.0.1:9"), 2, "--server needs --operator and --system-creds too"),
        (("list", "--api", "http://127.0.0.1:x/api"), 2, "is not an address; it looks like https://"),
        (("list", "--api", "http://127.0.0.1:99999/api"), 2, "is not an address; it looks like https://"),
        (("list", "--api", "cloud.synadia.com"), 2, "is not an address; it looks like https://"),
        (("secret", "push", "--initials", "TT"), 1, "service.creds; run create"),
        (("seed-flag", "clear", "--initials", "TT"), 1, "service.creds; run create"),
        (("revoke", "--key", "UNO", "--initials", "TT"), 2, "UNO is not a user's public key"),
    ],
)
async def test_a_users_mistake_is_one_line(
    cloud: tuple[Cli, FakeSynadia], arguments: tuple[str, ...], code: int, says: str
) -> None:
    """In this process: to start one for each would take longer than all of them."""
    person, _ = cloud
    command_line = [*arguments, "--config", str(person.config)]
    said = await asyncio.to_thread(CliRunner().invoke, cli, command_line, env=person.env)
    assert said.exit_code == code
    assert said.stderr.startswith("error: ")
    assert says in said.stderr
    assert said.output.count("\n") == 1


async def test_an_expired_token_is_one_line(cloud: tuple[Cli, FakeSynadia]) -> None:
    person, _ = cloud
    person.env["SYNADIA_TOKEN"] = "uat_an_old_one"
    code, _, error = await person.process("list")
    assert code == 1
    assert "token is expired; make a new personal access token" in error
    assert "uat_an_old_one" not in error


async def test_the_life_of_an_account_on_your_own_server(own: Cli, servers: Servers) -> None:
    try:
        code, output, _ = await own.process("create", "--initials", "CLI")
        assert code == 0
        assert "this server allows 1 of the wanted 3 replicas" in output
        assert (await own("status", "--initials", "CLI"))[0] == 0
        assert "POC-CLI" in (await own("list"))[1]
        old = (own.config / "POC-CLI" / "service.creds").read_text()
        assert (await own("rotate", "--user", "service", "--initials", "CLI"))[0] == 0
        assert (own.config / "POC-CLI" / "service.creds").read_text() != old
        assert (await own("status", "--initials", "CLI"))[0] == 0

        creds = (own.config / "POC-CLI" / "service.creds").read_text()
        async with self_hosted.connected(servers.nats_url, creds, inbox_prefix=INBOX_PREFIX) as client:
            await (await client.jetstream().key_value(BUCKET)).put(SEED_KEY, SEED_DONE)
        code, output, _ = await own("rotate", "--user", "service", "--keep-old", "--initials", "CLI")
        (key,) = re.findall(r"when nothing uses the old ones any more: revoke --key (U\w{55})\n", output)
        async with self_hosted.connected(servers.nats_url, creds, inbox_prefix=INBOX_PREFIX):
            pass  # both are valid
        assert (await own("revoke", "--key", key, "--initials", "CLI"))[:2] == (0, f"revoked  {key}\n")
        with pytest.raises(ProvisioningError, match="Authorization Violation"):
            async with self_hosted.connected(servers.nats_url, creds, inbox_prefix=INBOX_PREFIX):
                pass
        assert (await own("status", "--initials", "CLI"))[0] == 0, "the new ones are what is wanted"

        clear = ("seed-flag", "clear", "--initials", "CLI")
        assert (await own(*clear))[1] == "cleared: the next task to start seeds\n"
        elsewhere = (*clear, "--nats-url", servers.nats_url)
        assert (await own(*elsewhere, options=False))[1] == "nothing to do: the flag is not set\n"
    finally:
        assert (await own("delete", "--initials", "CLI", "--yes"))[0] == 0
    assert "POC-CLI" not in (await own("list"))[1]


@pytest.mark.parametrize("name", ["operator.seed", "system.creds"])
async def test_a_damaged_key_file_is_named(own: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("SUAPRETENDINGTOBEASEED")
    code, _, error = await own("list")
    assert code == 1
    assert str(tmp_path / name) in error
    assert "PRETENDING" not in error
    (tmp_path / name).unlink()
    assert "cannot be read (No such file or directory)" in (await own("list"))[2]


def test_help_is_there_for_every_command() -> None:
    def names(command: Any, *before: str) -> Iterator[str]:
        yield " ".join(before)
        for name, below in getattr(command, "commands", {}).items():
            yield from names(below, *before, name)

    commands = list(names(typer.main.get_command(cli)))
    assert {"list", "create", "status", "rotate", "revoke", "delete", "secret push", "seed-flag clear"} <= set(commands)
    for command in commands:
        result = CliRunner().invoke(cli, [*command.split(), "--help"])
        assert (result.exit_code, "Usage" in result.output) == (0, True)
