"""A rotation that stops anywhere: old credentials die last, `status` sees it, and running again finishes it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import boto3
import pytest

from control_plane.auth.creds import Creds
from control_plane.desired import ACCOUNT, SERVICE
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.reconcile import reconcile, rotation
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from tests.control_plane.conftest import Program
from tests.support.synadia.fake import Failure, refused
from tests.support.world import Servers


def held(program: Program, user: str = "service") -> str:
    return Creds.parse(program.files.creds(user) or "").key.public


@pytest.mark.parametrize("failure", ["500", "lost before", "lost after"])
async def test_a_rotation_may_stop_at_any_call(program: Program, failure: Failure) -> None:
    fake, user = program.fake, "gateway"
    await program("create")
    fake.calls.clear()
    assert (await program("rotate", "--user", user))[0] == 0
    calls = list(fake.calls)
    assert [path.rpartition("/")[2] for method, path in calls].count("nats-users") == 1, "users are listed once"
    for number in range(len(calls)):
        old = held(program, user)
        fake.calls.clear()
        fake.failure, fake.fail_from = failure, number
        code, _, error = await program("rotate", "--user", user)
        fake.fail_from = None
        assert (code, error.count("\n")) == (1, 1)
        assert "run it again" in error
        revoked_and_held = held(program, user) in fake.revoked
        assert not revoked_and_held, "what is in the file works"
        begun = fake.user(user).key.public != old or old in fake.revoked
        if begun:
            assert (await program("status"))[0] == 3
        again = ("create",) if number % 2 else ("rotate", "--user", user)
        assert (await program(*again))[0] == 0
        if begun or again[0] == "rotate":
            assert old in fake.revoked
            assert held(program, user) == fake.user(user).key.public != old
        assert (await program("status"))[0] == 0
        assert program.files.token("gateway") == fake.tokens[-1]


async def test_aws_fails_and_the_deployment_goes_on(program: Program) -> None:
    """New credentials, then the file, then the secret, and only then the end of the old ones."""
    await program("create", "--secret")
    old, works = held(program), program.env["AWS_ENDPOINT_URL"]
    program.env["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    code, _, error = await program("rotate", "--user", "service", "--secret")
    assert code == 1
    assert "the old ones are valid until this is done: go on with `secret push --initials TT`" in error
    assert old not in program.fake.revoked
    assert held(program) == program.fake.user("service").key.public != old
    program.env["AWS_ENDPOINT_URL"] = works
    code, output, _ = await program("status")
    assert code == 3
    assert "unfinished rotation\n  * old ones  wanted void, there not yet" in output
    code, output, _ = await program("secret", "push")
    assert code == 0
    assert output.startswith("pushed arn:")
    assert old in program.fake.revoked
    client = boto3.client(
        "secretsmanager", endpoint_url=works, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    value = client.get_secret_value(SecretId="TT/NATSCreds")["SecretString"]
    client.close()
    assert base64.b64decode(value).decode() == program.files.creds("service")
    assert (await program("status", "--secret"))[0] == 0
    await program("secret", "delete")


async def test_the_old_key_is_the_one_that_the_api_tells(program: Program) -> None:
    await program("create")
    old = program.fake.user("service").key.public
    program.files.creds_path("service").write_text("damaged")
    code, output, _ = await program("rotate", "--user", "service", "--keep-old")
    assert code == 0
    assert output.endswith(f"when nothing uses the old ones any more: revoke --key {old}\n")
    assert program.fake.revoked == {}
    assert (await program("status"))[0] == 0


async def test_the_old_key_is_printed_when_it_stops_too(program: Program) -> None:
    await program("create")
    old = program.fake.user("service").key.public
    program.fake.calls.clear()
    program.fake.intercept = lambda call: refused(500, "gone") if program.fake.calls[-1][1].endswith("/creds") else None
    code, _, error = await program("rotate", "--user", "service", "--keep-old")
    program.fake.intercept = None
    assert (code, f"valid until `revoke --key {old}`" in error) == (1, True)
    assert (await program("status"))[0] == 3
    assert (await program("create"))[0] == 0
    assert held(program) == program.fake.user("service").key.public != old


@pytest.fixture
async def own(servers: Servers, tmp_path: Path) -> AsyncIterator[tuple[SelfHosted, str, Files]]:
    """An account on the real server."""
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        provider = SelfHosted(servers.nats_url, system, servers.operator, servers.system.public)
        files = Files(tmp_path / "own")
        planned = await reconcile.plan(provider, "POC-RO", ACCOUNT, files)
        async for _ in reconcile.apply(provider, planned):
            pass
        account = await reconcile.find(provider, "POC-RO")
        assert account
        yield provider, account.id, files
        for step in await reconcile.deletions(provider, account, files):
            await step.do(account.id)


@pytest.mark.parametrize("steps", ["identity", "renew", "creds", "retire"])
async def test_on_your_own_server_it_may_stop_at_any_call(
    own: tuple[SelfHosted, str, Files], servers: Servers, monkeypatch: pytest.MonkeyPatch, steps: str
) -> None:
    provider, account, files = own
    old = files.creds("service") or ""

    async def stopped(*_: object) -> None:
        raise ProvisioningError("the machine went away")

    monkeypatch.setattr(provider, steps, stopped)
    with pytest.raises(ProvisioningError, match="went away"):
        async for _ in rotation.rotate(provider, account, SERVICE, files):
            pass
    monkeypatch.undo()
    for creds in (old, files.creds("service") or ""):
        async with self_hosted.connected(servers.nats_url, creds):
            pass
    planned = await reconcile.plan(provider, "POC-RO", ACCOUNT, files)
    assert bool(planned.changes) is (steps != "identity"), "nothing was begun before it"
    async for _ in rotation.rotate(provider, account, SERVICE, files):
        pass
    with pytest.raises(ProvisioningError, match="Authorization Violation"):
        async with self_hosted.connected(servers.nats_url, old):
            pass
    assert not (await reconcile.plan(provider, "POC-RO", ACCOUNT, files)).changes


async def test_a_key_that_nobody_knows_is_not_lost(own: tuple[SelfHosted, str, Files]) -> None:
    """A damaged file, where only the file tells the key: it is left as it was."""
    provider, account, files = own
    files.creds_path("service").write_text("damaged")
    with pytest.raises(ProvisioningError, match="the key of the old credentials is not known"):
        async for _ in rotation.issue(provider, account, SERVICE, files):
            pass
    assert files.creds("service") == "damaged"
