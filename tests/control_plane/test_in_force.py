"""What `create` calls done is in force: the credentials in the file have the wanted permissions, on the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import boto3
import pytest
from nats.aio.client import Client, RawCredentials

from control_plane import __main__ as main
from control_plane.auth import claims
from control_plane.auth.creds import Creds
from control_plane.desired import ACCOUNT, CLIENT
from control_plane.resources import User
from control_plane.self_hosted import provider as self_hosted
from service.nats.connection import roundtrip
from tests.control_plane.conftest import Program
from tests.support.synadia.fake import FakeSynadia
from tests.support.world import Servers


@asynccontextmanager
async def on_the_server(fake: FakeSynadia, servers: Servers) -> AsyncIterator[None]:
    """The account of the fake, as it is now, on the real server."""
    account = fake.account("POC-TT")
    signing = [key.public for key in fake.group_keys.values()]
    token = claims.account_jwt(
        account.name, account.key.public, servers.operator,
        limits=ACCOUNT.limits, signing_keys=signing, revoked=fake.revoked,
    )  # fmt: skip
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        await self_hosted.push_account(system, token)
        try:
            yield
        finally:
            await self_hosted.delete_account(system, account.key.public, servers.operator)


async def refused(servers: Servers, creds: str, *subjects: str) -> list[str]:
    """Of the subjects, those that the user may not publish."""
    problems: list[str] = []

    async def note(error: Exception) -> None:
        problems.append(str(error))

    client = Client()
    await client.connect(servers.nats_url, user_credentials=RawCredentials(creds), error_cb=note)
    try:
        for subject in subjects:
            await client.publish(subject, b"?")
        await roundtrip(client)
    finally:
        await client.close()
    return [subject for subject in subjects if any(f'"{subject}"' in problem for problem in problems)]


def declare(monkeypatch: pytest.MonkeyPatch, user: User) -> None:
    users = tuple(user if each.name == user.name else each for each in ACCOUNT.users)
    monkeypatch.setattr(main, "ACCOUNT", replace(ACCOUNT, users=users))


async def test_a_changed_permission_reaches_the_file(
    program: Program, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await program("create"))[0] == 0
    declare(monkeypatch, replace(CLIENT, publish=("$SRV.>", "customer.added")))
    code, output, _ = await program("status")
    assert code == 3
    assert "credentials" in output
    assert "that are elsewhere keep their former permissions until `rotate --user client`" in output
    async with on_the_server(program.fake, servers):
        before = program.files.creds("client") or ""
        assert await refused(servers, before, "customer.balance", "customer.added") == ["customer.added"]
        _, planned, _ = await program("create", "--dry-run")
        _, output, _ = await program("create")
        assert [line.split()[1:] for line in output.splitlines() if line.startswith("changed")] == [
            line.split()[2:] for line in planned.splitlines() if line.startswith("would")
        ]
        after = program.files.creds("client") or ""
        assert await refused(servers, after, "customer.balance", "customer.added") == ["customer.balance"]
    assert (await program("status"))[0] == 0


async def test_a_jwt_that_ends_is_seen_and_made_again(program: Program) -> None:
    await program("create")
    user = program.fake.user("client")
    user.expires_s = 3600
    program.files.write_creds("client", program.fake.creds(user))
    code, output, _ = await program("status")
    assert code == 3
    assert "jwt_expires_in_secs" in output
    assert "expires  wanted never" in output
    await program("create")
    assert (await program("status"))[0] == 0
    assert "exp" not in Creds.parse(program.files.creds("client") or "").claims


async def test_a_jwt_that_ended_is_made_again_where_every_jwt_ends(program: Program) -> None:
    await program("create")
    account = program.fake.account("POC-TT")
    account.expires_s = -5
    program.files.write_creds("client", program.fake.creds(program.fake.user("client")))
    account.expires_s = 3600
    code, output, _ = await program("status")
    assert code == 3
    assert "expires  wanted later" in output
    await program("create")
    assert Creds.parse(program.files.creds("client") or "").claims["exp"]


async def test_a_revoked_key_is_seen(program: Program) -> None:
    await program("create")
    key = program.fake.user("client").key.public
    await program("revoke", "--key", key)
    assert program.fake.bodies[-1] == {"before": 0}, "the server's clock says when"
    code, output, _ = await program("status")
    assert code == 3
    assert "key  wanted valid, there revoked" in output


async def test_the_secret_holds_what_the_file_holds(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = await program("create", "--secret")
    assert "created  secret TT/NATSCreds" in output
    assert (await program("status", "--secret"))[0] == 0
    declare(monkeypatch, replace(ACCOUNT.user("service"), publish=("_INBOX.>",)))
    code, output, _ = await program("create", "--secret")
    assert "changed  secret TT/NATSCreds: credentials others -> those in the file" in output
    assert (await program("status", "--secret"))[0] == 0
    client = boto3.client(
        "secretsmanager", endpoint_url=program.env["AWS_ENDPOINT_URL"], region_name="eu-west-1",
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    client.put_secret_value(SecretId="TT/NATSCreds", SecretString="b3RoZXJz")
    client.close()
    code, output, _ = await program("status", "--secret")
    assert (code, "drifted    secret TT/NATSCreds" in output) == (3, True)
    await program("secret", "delete")
    assert (await program("status"))[0] == 0
