"""The provider for a server of one's own: what it does holds on the real server, for open connections too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client, RawCredentials

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.auth.creds import Creds
from control_plane.desired import ACCOUNT, CLIENT, SERVICE, TAG
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.reconcile import reconcile, rotation
from control_plane.resources import User
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from service.contracts.customer import INBOX_PREFIX
from service.nats.connection import roundtrip
from tests.support.world import Servers, eventually

NAME = "POC-SH"


class Provisioned:
    def __init__(self, provider: SelfHosted, account: str, files: Files, url: str) -> None:
        self.provider = provider
        self.account = account
        self.files = files
        self.url = url

    @asynccontextmanager
    async def connected(self, user: str) -> AsyncIterator[tuple[Client, list[str]]]:
        problems: list[str] = []

        async def note(error: Exception) -> None:
            problems.append(str(error))

        client = Client()
        creds = RawCredentials(self.files.creds(user) or "")
        inbox = INBOX_PREFIX if user == "service" else "_INBOX"
        await client.connect(self.url, user_credentials=creds, error_cb=note, allow_reconnect=False, inbox_prefix=inbox)
        try:
            yield client, problems
        finally:
            await client.close()

    async def is_refused(self, creds: str) -> bool:
        try:
            async with self_hosted.connected(self.url, creds):
                return False
        except ProvisioningError as error:
            return "authorization violation" in str(error).lower()


@pytest.fixture
async def provisioned(servers: Servers, tmp_path: Path) -> AsyncIterator[Provisioned]:
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        provider = SelfHosted(servers.nats_url, system, servers.operator, servers.system.public)
        files = Files(tmp_path)
        planned = await reconcile.plan(provider, NAME, ACCOUNT, files)
        async for _ in reconcile.apply(provider, planned):
            pass
        account = await reconcile.find(provider, NAME)
        assert account
        yield Provisioned(provider, account.id, files, servers.nats_url)
        left = await reconcile.find(provider, NAME)
        if left:
            for step in await reconcile.deletions(provider, left, files):
                await step.do(left.id)


async def test_a_server_without_jetstream_is_said_in_one_line() -> None:
    """As nats-server 2.15.1 answers then."""

    async def request(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(data=b'{"server":{},"error":{"code":503,"description":"JetStream not enabled"}}')

    system: Any = SimpleNamespace(request=request)
    provider = SelfHosted("nats://127.0.0.1:1", system, Key.operator(), "A")
    with pytest.raises(ProvisioningError, match="JetStream not enabled"):
        await provider.max_replicas()


async def test_users_have_their_permissions_and_no_more(provisioned: Provisioned) -> None:
    async with (
        provisioned.connected("service") as (service, no_problems),
        provisioned.connected("client") as (
            client,
            problems,
        ),
    ):

        async def answer(message: object) -> None:
            await service.publish(message.reply, b"7")  # type: ignore[attr-defined]

        await service.subscribe("customer.balance", queue="q", cb=answer)
        await roundtrip(service)
        assert (await client.request("customer.balance", b"?", timeout=2)).data == b"7"
        await client.publish("customer.balance.1", b"forged")
        await client.subscribe("customer.balance.>")
        await roundtrip(client)
        await eventually(lambda: len(problems) == 2)
        assert all("permissions violation" in problem.lower() for problem in problems)
        assert no_problems == []


async def test_a_changed_permission_holds_for_credentials_that_are_out(provisioned: Provisioned) -> None:
    narrower = User(CLIENT.name, publish=("$SRV.>",), subscribe=CLIENT.subscribe)
    await provisioned.provider.put_user(provisioned.account, narrower)
    async with provisioned.connected("client") as (client, problems):
        await client.publish("customer.balance", b"?")
        await roundtrip(client)
        await eventually(lambda: len(problems) == 1)


async def test_rotation_cuts_off_the_old_credentials_at_its_end(provisioned: Provisioned) -> None:
    old, others = provisioned.files.creds("service") or "", provisioned.files.creds("client") or ""
    async with provisioned.connected("service") as (service, _):
        async for line in rotation.rotate(provisioned.provider, provisioned.account, SERVICE, provisioned.files):
            if line.startswith("rotated"):
                assert not await provisioned.is_refused(old), "the old ones die last"
                assert not await provisioned.is_refused(provisioned.files.creds("service") or "")
        await eventually(lambda: service.is_closed, what="the end of the old connection")
    new = provisioned.files.creds("service") or ""
    assert await provisioned.is_refused(old)
    assert not await provisioned.is_refused(new)
    assert not await provisioned.is_refused(others), "another user's are as they were"
    async for _ in rotation.rotate(provisioned.provider, provisioned.account, SERVICE, provisioned.files):
        pass
    assert await provisioned.is_refused(new)
    assert not await provisioned.is_refused(provisioned.files.creds("service") or "")


async def test_a_permission_taken_away_holds_for_both_keys_of_a_rotation(provisioned: Provisioned) -> None:
    provider, account = provisioned.provider, provisioned.account
    await provider.renew(account, "client")
    await provider.put_user(account, User(CLIENT.name, publish=("$SRV.>",), subscribe=CLIENT.subscribe))
    async with provisioned.connected("client") as (client, problems):
        await client.publish("customer.balance", b"?")
        await roundtrip(client)
        await eventually(lambda: len(problems) == 1)


async def test_a_revoked_key_stays_revoked_whatever_clock_made_its_jwt(
    provisioned: Provisioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this machine is ten minutes behind the one that dated the JWT."""
    creds = provisioned.files.creds("client") or ""
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 600)
    await provisioned.provider.revoke(provisioned.account, Creds.parse(creds).key.public)
    assert await provisioned.is_refused(creds)


async def test_a_removed_user_is_cut_off(provisioned: Provisioned) -> None:
    creds = provisioned.files.creds("client") or ""
    await provisioned.provider.remove_user(provisioned.account, "client")
    assert await provisioned.is_refused(creds)


async def stored_accounts(provider: SelfHosted) -> set[str]:
    """The accounts for which the server's JetStream holds anything."""
    reply = await provider._system.request("$SYS.REQ.SERVER.PING.JSZ", b'{"accounts":true,"streams":true}', timeout=2)
    details = json.loads(reply.data)["data"].get("account_details") or []
    return {detail["id"] for detail in details if detail.get("stream_detail")}


async def test_delete_removes_the_account_and_its_data(provisioned: Provisioned) -> None:
    creds = provisioned.files.creds("client") or ""
    provider, account = provisioned.provider, provisioned.account
    async with provisioned.connected("service") as (service, _):
        await service.jetstream().publish("customer.balance.1", b"{}")
    assert account in await stored_accounts(provider)
    summary = await reconcile.find(provider, NAME)
    assert summary
    for step in await reconcile.deletions(provider, summary, provisioned.files):
        await step.do(account)
    assert await provisioned.is_refused(creds)
    with pytest.raises(ProvisioningError):
        await provider.actual(account)
    assert account not in await stored_accounts(provider)


async def test_another_operator_is_refused(servers: Servers, tmp_path: Path) -> None:
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        stranger = SelfHosted(servers.nats_url, system, Key.operator(), servers.system.public)
        planned = await reconcile.plan(stranger, "POC-XX", ACCOUNT, Files(tmp_path))
        with pytest.raises((ProvisioningError, nats.errors.Error)) as caught:
            async for _ in reconcile.apply(stranger, planned):
                pass
        assert "SO" not in str(caught.value)
        (account,) = [account for account in await stranger.accounts() if account.name == "POC-XX"]
        await self_hosted.delete_account(system, account.id, servers.operator)


async def test_tls_or_nothing(servers: Servers) -> None:
    """A server in the middle that offers no TLS is sent no credential."""
    sent = bytearray()

    async def plaintext(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"nonce":"abc","auth_required":true}\r\n'
        )
        while data := await reader.read(4096):
            sent.extend(data)
        writer.close()

    server = await asyncio.start_server(plaintext, "127.0.0.1", 0)
    async with server:
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ProvisioningError, match="offers no TLS"):
            async with self_hosted.connected(url, servers.system_creds):
                pass
    with pytest.raises(ProvisioningError, match="offers no TLS"):
        async with self_hosted.connected(servers.nats_url.replace("nats://", "tls://"), servers.system_creds):
            pass
    assert sent == b""


async def test_signing_again_keeps_every_claim_that_is_not_ours(servers: Servers) -> None:
    """https://www.rfc-editor.org/rfc/rfc7519#section-4.1: `exp`, `nbf` and `aud` are the account's own."""
    account, now = Key.account().public, int(time.time())
    theirs = {"exp": now + 3_600, "nbf": now - 60, "aud": "NATS", "https://example.com/team": "loyalty"}
    body = {"type": "account", "limits": {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1}}
    token = claims.sign_again({"name": "THEIRS", "sub": account, "nats": body, **theirs}, servers.operator)
    assert claims.decode(token).items() >= theirs.items()
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        provider = SelfHosted(servers.nats_url, system, servers.operator, servers.system.public)
        await self_hosted.push_account(system, token)
        try:
            await provider.adopt(account)
            await provider.put_limits(account, ACCOUNT.limits)
            said = await provider.claims_of(account)
            assert said.items() >= theirs.items()
            assert TAG in said["nats"]["tags"]
        finally:
            await self_hosted.delete_account(system, account, servers.operator)
