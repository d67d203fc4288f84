"""Changes of one account at a time: what a command says is done stays done, on the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client

from benchmark.load.mqtt import Refused
from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import CLIENT, EVERYTHING
from control_plane.devices import Devices
from control_plane.errors import ProvisioningError
from control_plane.parts import DEVICE
from control_plane.resources import User
from control_plane.self_hosted import changes
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from service.nats.connection import roundtrip
from tests.control_plane.conftest import OwnProgram

Change = Callable[[SelfHosted, str], Awaitable[None]]

CHANGES: dict[str, Change] = {
    "adopt": lambda provider, account: provider.adopt(account),
    "limits": lambda provider, account: provider.put_limits(account, EVERYTHING.limits),
    "user": lambda provider, account: provider.put_user(account, User("client", publish=("$SRV.>",), subscribe=())),
    "removed": lambda provider, account: provider.remove_user(account, "viewer"),
    "rotated": lambda provider, account: provider.renew(account, CLIENT.name),
    "revoked": lambda provider, account: provider.revoke(account, Key.user().public),
}


@pytest.fixture
def alone() -> None:
    """Other commands change the account here."""


async def is_out(own: OwnProgram, name: str, jwt: str) -> bool:
    try:
        await (await own.connect(name, jwt)).disconnect()
    except Refused:
        return True
    return False


@pytest.mark.parametrize("name", CHANGES)
async def test_a_revocation_stays_that_came_after_another_command_read(
    own: OwnProgram, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    jwts = {device: await own.add(device) for device in ("d1", "d2")}
    revoked: list[str] = []
    async with own.provider() as (one, account), own.provider() as (two, _):
        read = two.claims_of

        async def slow(account: str) -> dict[str, Any]:
            body = await read(account)
            revoked.append(f"d{len(revoked) + 1}")
            await Devices(one, account).revoke(revoked[-1:])
            return body

        monkeypatch.setattr(two, "claims_of", slow)
        await CHANGES[name](two, account)
    assert revoked
    assert [device for device in revoked if not await is_out(own, device, jwts[device])] == []


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "adopt"])  # which has nothing to change here
async def test_a_revocation_stays_that_another_command_has_replaced(
    own: OwnProgram, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The two JWTs are on their way at the same time, and the one without the revocation comes last."""
    jwt, push, crossed = await own.add("d1"), self_hosted.push_account, asyncio.Event()
    async with own.provider() as (one, account), own.provider() as (two, _):

        async def slow(system: Client, token: str) -> None:
            if system is two._system and not crossed.is_set():
                crossed.set()
                await Devices(one, account).revoke(["d1"])
            await push(system, token)

        monkeypatch.setattr(self_hosted, "push_account", slow)
        await CHANGES[name](two, account)
    assert await is_out(own, "d1", jwt)


async def test_many_changes_at_a_time_are_all_kept(own: OwnProgram) -> None:
    names = [f"d{number}" for number in range(6)]
    jwts = {name: await own.add(name) for name in names}

    async def revoke(name: str) -> None:
        async with own.provider() as (provider, account):
            await Devices(provider, account).revoke([name])

    async def rotate() -> None:
        async with own.provider() as (provider, account):
            await provider.renew(account, CLIENT.name)
            identity = await provider.identity(account, CLIENT.name)
            assert identity.issuer == provider.signer(account, CLIENT.name, 1).public

    await asyncio.gather(rotate(), *map(revoke, names))
    assert [name for name, jwt in jwts.items() if not await is_out(own, name, jwt)] == []
    async with own.provider() as (provider, account):
        assert CLIENT.name in (await provider.actual(account)).rotating


async def test_a_jwt_that_the_operator_did_not_sign_is_no_base(
    own: OwnProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses it, and so does a command that hears it: else it would sign a stranger's key."""
    stranger = Key.account().public
    async with own.provider() as (provider, account):
        read, system = provider.claims_of, provider._system

        async def meanwhile(account: str) -> dict[str, Any]:
            body = await read(account)
            keys = [*body["nats"]["signing_keys"], stranger]
            forged = claims.sign_again({**body, "nats": {**body["nats"], "signing_keys": keys}}, Key.operator())
            for token in (forged, "no JWT", ""):
                await system.publish(changes.UPDATE, token.encode())
            await roundtrip(system)
            return body

        monkeypatch.setattr(provider, "claims_of", meanwhile)
        await provider.revoke(account, Key.user().public)
        said = (await read(account))["nats"]
        assert len(said["revocations"]) == 1
        assert stranger not in said["signing_keys"]


async def test_a_system_user_that_may_not_hear_is_said(own: OwnProgram) -> None:
    system = own.servers.system
    user = User("deaf", publish=("$SYS.REQ.>",), subscribe=("_INBOX.>",))
    creds = claims.mint_creds(user, system, account=system.public)
    async with own.provider() as (_, account), self_hosted.connected(own.servers.nats_url, creds) as client:
        provider = SelfHosted(own.servers.nats_url, client, own.servers.operator, system.public)
        with pytest.raises(ProvisioningError, match=r"let --system-creds subscribe to \$SYS.REQ.CLAIMS.UPDATE"):
            await provider.revoke(account, Key.user().public)


async def test_a_new_account_is_made_with_its_users(own: OwnProgram) -> None:
    """Each JWT takes the server's JetStream away for a moment, and a command waits after each for those of others."""
    await own.done("delete", "--yes")
    async with self_hosted.connected(own.servers.nats_url, own.servers.system_creds) as system:
        sent = await system.subscribe(changes.UPDATE)
        await roundtrip(system)
        await own.done("create", "--with", "devices")
        await roundtrip(system)
        users = []
        while sent.pending_msgs:
            body = claims.decode((await sent.next_msg()).data.decode())
            users.append([key["role"] for key in body["nats"]["signing_keys"] if isinstance(key, dict)])
    assert len(users) == 2
    assert [name for name in users[1] if name not in users[0]] == [DEVICE.name]
