"""One behaviour, against the fake of Synadia's control plane and against the real nats-server."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from control_plane.auth.creds import Creds, creds_differences
from control_plane.desired import ACCOUNT, CLIENT
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.provider import Provider
from control_plane.reconcile import reconcile, rotation
from control_plane.resources import MIB, Account
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from control_plane.settings import Difference, differences, limits_settings, user_settings
from control_plane.synadia import api as synadia_api
from control_plane.synadia.provider import Synadia
from control_plane.synadia.system import find_system
from tests.support.synadia.fake import TOKEN, fake_synadia
from tests.support.world import Servers

NAME = "POC-TT"
(STREAM,), (BUCKET,) = ACCOUNT.streams, ACCOUNT.buckets


@dataclass
class Place:
    provider: Provider
    files: Files
    names: Callable[[], Awaitable[list[str]]]

    async def create(self, wanted: Account = ACCOUNT) -> list[str]:
        planned = await reconcile.plan(self.provider, NAME, wanted, self.files)
        return [step.resource async for step in reconcile.apply(self.provider, planned)]

    async def due(self, wanted: Account = ACCOUNT) -> dict[str, tuple[str, tuple[Difference, ...]]]:
        planned = await reconcile.plan(self.provider, NAME, wanted, self.files)
        return {step.resource: (step.action, step.differences) for step in planned.changes}

    async def delete(self) -> list[str]:
        account = await reconcile.find(self.provider, NAME)
        assert account
        steps = await reconcile.deletions(self.provider, account, self.files)
        for step in steps:
            await step.do(account.id)
        return [step.resource for step in steps]

    async def is_current(self, user: str, creds: str) -> bool:
        identity = (await self.provider.actual(await self.account())).identities[user]
        return not creds_differences(Creds.parse(creds), ACCOUNT.user(user), identity)

    async def rotate(self, user: str) -> None:
        async for _ in rotation.rotate(self.provider, await self.account(), ACCOUNT.user(user), self.files):
            pass

    async def account(self) -> str:
        account = await reconcile.find(self.provider, NAME)
        assert account
        return account.id


@pytest.fixture(params=["synadia", "self-hosted"])
async def place(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        provider: Provider
        if request.param == "synadia":
            fake = await stack.enter_async_context(fake_synadia())
            api = await stack.enter_async_context(synadia_api.connect(TOKEN, fake.url))
            provider = Synadia(api, await find_system(api, None))
        else:
            client = await stack.enter_async_context(self_hosted.connected(servers.nats_url, servers.system_creds))
            provider = SelfHosted(servers.nats_url, client, servers.operator, servers.system.public)

        async def names() -> list[str]:
            return [account.name for account in await provider.accounts()]

        yield Place(provider, Files(tmp_path / "config"), names)
        account = await reconcile.find(provider, NAME)
        if account:
            for step in await reconcile.deletions(provider, account, Files(tmp_path / "config")):
                await step.do(account.id)


async def test_create_makes_everything_and_then_nothing(place: Place) -> None:
    before = await place.names()
    made = await place.create()
    assert made[0] == f"account {NAME}"
    assert sorted(await place.names()) == sorted([*before, NAME])
    assert await place.due() == {}
    assert await place.create() == []
    for user in ACCOUNT.users:
        path = place.files.creds_path(user.name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await place.is_current(user.name, path.read_text())
    assert bool(place.files.token("gateway")) is place.provider.has_gateway


async def test_what_is_there_is_what_was_wanted(place: Place) -> None:
    await place.create()
    actual = await place.provider.actual(await place.account())
    replicas = min(3, await place.provider.max_replicas())
    wanted = limits_settings(ACCOUNT.limits)
    assert {name: actual.limits[name] for name in wanted} == wanted
    assert actual.users.keys() == {user.name for user in ACCOUNT.users}
    for user in ACCOUNT.users:
        assert differences("user", user_settings(user), actual.users[user.name]) == ()
    stream = actual.streams[STREAM.name]
    assert (stream["subjects"], stream["num_replicas"]) == (["customer.balance.>", "customer.adjusted.>"], replicas)
    assert (stream["max_age"], stream["duplicate_window"]) == (7 * 86_400 * 10**9, 120 * 10**9)
    assert (actual.buckets[BUCKET.name]["max_bytes"], actual.buckets[BUCKET.name]["num_replicas"]) == (MIB, replicas)


async def test_a_plan_touches_nothing(place: Place) -> None:
    before = await place.names()
    due = await place.due()
    assert due[f"account {NAME}"][0] == "create"
    assert await place.names() == before
    assert not place.files.folder.exists()
    await place.create()
    await place.provider.put_user(await place.account(), replace(CLIENT, publish=()))
    await place.provider.remove_stream(await place.account(), STREAM.name)
    place.files.creds_path("service").unlink()
    there = await place.provider.actual(await place.account())
    assert (await place.due()).keys() >= {"user client", f"stream {STREAM.name}"}
    assert await place.provider.actual(await place.account()) == there
    assert place.files.creds("service") is None


async def test_drift_is_shown_and_corrected(place: Place) -> None:
    await place.create()
    account = await place.account()
    drifted = replace(ACCOUNT.limits, connections=7)
    await place.provider.put_limits(account, drifted)
    lax = replace(CLIENT, publish=(*CLIENT.publish, "customer.balance.*"), responses=True)
    await place.provider.put_user(account, lax)
    replicas = min(3, await place.provider.max_replicas())
    shorter = replace(STREAM, max_age_s=60, duplicate_window_s=30, replicas=replicas)
    await place.provider.put_stream(account, shorter)
    due = await place.due()
    remarks = (await reconcile.plan(place.provider, NAME, ACCOUNT, place.files)).remarks
    carried = isinstance(place.provider, Synadia)  # by JWTs; a server of one's own looks permissions up
    assert [remark.startswith("copies of client.creds that are elsewhere keep") for remark in remarks].count(
        True
    ) == carried
    assert due["limits"] == ("change", (Difference("conn", 100, 7),))
    assert due["user client"] == (
        "change",
        (
            Difference("pub.allow", list(CLIENT.publish), list(lax.publish)),
            Difference("resp.max", None, 1),
            Difference("resp.ttl", None, 60 * 10**9),
        ),
    )
    assert due[f"stream {STREAM.name}"] == (
        "change",
        (
            Difference("max_age", 7 * 24 * 3600 * 10**9, 60 * 10**9),
            Difference("duplicate_window", 120 * 10**9, 30 * 10**9),
        ),
    )
    assert len(due) == 3
    assert sorted(await place.create()) == ["limits", f"stream {STREAM.name}", "user client"]
    assert await place.due() == {}


async def test_lost_credentials_are_written_again(place: Place) -> None:
    await place.create()
    place.files.creds_path("client").unlink()
    place.files.write_creds("service", place.files.creds("gateway") or "")
    place.files.write_creds("gateway", "damaged")
    assert {resource.rpartition("/")[2]: action for resource, (action, _) in (await place.due()).items()} == {
        "client.creds": "create",
        "service.creds": "change",
        "gateway.creds": "change",
    }
    await place.create()
    assert await place.due() == {}


async def test_rotation_gives_new_credentials_and_voids_the_old(place: Place) -> None:
    await place.create()
    old = place.files.creds("service") or ""
    await place.rotate("service")
    new = place.files.creds("service") or ""
    assert not await place.is_current("service", old)
    assert await place.is_current("service", new)
    assert await place.due() == {}


async def test_a_rotation_may_keep_the_old_ones_until_they_are_revoked(place: Place, servers: Servers) -> None:
    await place.create()
    account, old = await place.account(), place.files.creds("service") or ""
    new = await place.provider.issue(account, "service")
    assert await place.is_current("service", new)
    keys = [Creds.parse(creds).key.public for creds in (old, new)]
    assert keys[0] != keys[1]
    if isinstance(place.provider, SelfHosted):
        async with self_hosted.connected(servers.nats_url, old), self_hosted.connected(servers.nats_url, new):
            pass
    await place.provider.revoke(account, keys[0])
    assert not await place.is_current("service", old)
    if isinstance(place.provider, SelfHosted):
        with pytest.raises(ProvisioningError, match="no connection"):
            async with self_hosted.connected(servers.nats_url, old):
                pass
    assert await place.is_current("service", new)


async def test_delete_leaves_nothing_behind(place: Place) -> None:
    before = await place.names()
    await place.create()
    gone = await place.delete()
    assert gone[-1] == f"account {NAME}"
    assert await place.names() == before
    assert not place.files.folder.exists()
    assert await reconcile.find(place.provider, NAME) is None


async def test_a_removal_of_nothing_is_content(place: Place) -> None:
    await place.create()
    account = await place.account()
    for _ in range(2):
        await place.provider.remove_user(account, "client")
        await place.provider.remove_stream(account, STREAM.name)
        await place.provider.remove_bucket(account, BUCKET.name)
        left = await place.provider.actual(account)
        assert (left.streams, left.buckets) == ({}, {})
        assert left.users.keys() == {user.name for user in ACCOUNT.users} - {"client"}


async def test_the_system_account_is_left_alone(place: Place) -> None:
    with pytest.raises(ProvisioningError, match=r"SYS is the system account, and is left alone"):
        await reconcile.plan(place.provider, "SYS", ACCOUNT, place.files)


async def test_a_server_that_takes_no_batches_gets_a_stream_without_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def old_server() -> bool:
        return False

    monkeypatch.setattr(place.provider, "takes_batches", old_server)
    await place.create()
    actual = await place.provider.actual(await place.account())
    assert not actual.streams[STREAM.name].get("allow_batched")
    planned = await reconcile.plan(place.provider, NAME, ACCOUNT, place.files)
    assert not planned.changes
    assert "this server takes no batches" in planned.remarks[0]
    unset = actual.streams[STREAM.name].get("allow_batched")
    monkeypatch.undo()
    assert (await place.due())[f"stream {STREAM.name}"] == ("change", (Difference("allow_batched", True, unset),))
    await place.create()
    assert (await place.provider.actual(await place.account())).streams[STREAM.name]["allow_batched"]
