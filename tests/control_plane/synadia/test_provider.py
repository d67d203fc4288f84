"""Synadia's API when it refuses, fails, or is lost at any call."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tenacity import wait_none

from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT, TAG
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.reconcile import reconcile
from control_plane.synadia import api as synadia_api
from control_plane.synadia.provider import Synadia
from control_plane.synadia.system import find_system
from tests.support.synadia.fake import TOKEN, Failure, FakeSynadia, fake_synadia, refused

NAME = "POC-TT"


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSynadia]:
    monkeypatch.setattr(synadia_api, "_backoff", wait_none())
    async with fake_synadia() as fake:
        yield fake


async def create(fake: FakeSynadia, files: Files, token: str = TOKEN) -> None:
    async with synadia_api.connect(token, fake.url) as api:
        provider = Synadia(api, await find_system(api, None))
        planned = await reconcile.plan(provider, NAME, ACCOUNT, files)
        async for _ in reconcile.apply(provider, planned):
            pass


async def delete(fake: FakeSynadia, files: Files) -> None:
    async with synadia_api.connect(TOKEN, fake.url) as api:
        provider = Synadia(api, await find_system(api, None))
        account = await reconcile.find(provider, NAME)
        if account:
            for step in await reconcile.deletions(provider, account, files):
                await step.do(account.id)


def complete(fake: FakeSynadia) -> None:
    """Everything is there, once."""
    assert [account.name for account in fake.accounts.values()] == ["SYS", NAME]
    account = fake.account(NAME).id
    assert sorted(user.name for user in fake.users.values()) == sorted(user.name for user in ACCOUNT.users)
    assert [stream["name"] for stream in fake.of(fake.streams, account)] == ["customer-balances"]
    assert [bucket["bucket"] for bucket in fake.of(fake.buckets, account)] == ["config"]
    assert len(fake.of(fake.groups, account)) == 1


def telling(fake: FakeSynadia, failure: Failure) -> list[int]:
    """Of the calls that were made, those that make or change something; a read ends alike however it fails."""
    reads = failure == "500"
    return [number for number, (method, _) in enumerate(fake.calls) if method != "GET" or (reads and number % 3 == 0)]


@pytest.mark.parametrize("failure", ["500", "lost before", "lost after"])
async def test_create_completes_after_a_failure_at_any_change(
    fake: FakeSynadia, tmp_path: Path, failure: Failure
) -> None:
    nothing = fake.remembered()
    await create(fake, Files(tmp_path / "whole"))
    assert len(fake.calls) > 20
    for number in telling(fake, failure):
        fake.restore(nothing)
        files = Files(tmp_path / f"{number}")
        fake.calls.clear()
        fake.failure, fake.fail_from = failure, number
        with pytest.raises(ProvisioningError) as caught:
            await create(fake, files)
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
        fake.fail_from = None
        await create(fake, files)
        complete(fake)
        assert all(files.creds(user.name) for user in ACCOUNT.users)


@pytest.mark.parametrize("failure", ["500", "lost before", "lost after"])
async def test_delete_completes_after_a_failure_at_any_change(
    fake: FakeSynadia, tmp_path: Path, failure: Failure
) -> None:
    made = tmp_path / "made"
    await create(fake, Files(made))
    everything = fake.remembered()
    fake.calls.clear()
    await delete(fake, Files(shutil.copytree(made, tmp_path / "first")))
    for number in telling(fake, failure):
        fake.restore(everything)
        files = Files(shutil.copytree(made, tmp_path / f"{number}"))
        fake.calls.clear()
        fake.failure, fake.fail_from = failure, number
        with contextlib.suppress(ProvisioningError):  # a repeated deletion of what is gone by then succeeds
            await delete(fake, files)
        assert len(fake.calls) > number
        fake.fail_from = None
        await delete(fake, files)
        assert [account.name for account in fake.accounts.values()] == ["SYS"]
        assert (fake.users, fake.streams, fake.buckets) == ({}, {}, {})


async def test_one_bad_moment_is_not_noticed(fake: FakeSynadia, tmp_path: Path) -> None:
    """Reads are repeated; what makes something is not, unless it was told to come back."""
    fake.answer_with = [
        refused(500, "once"),
        refused(503, "twice"),
        web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": "0"}),
    ]
    await create(fake, Files(tmp_path))
    complete(fake)


async def test_retry_after_is_honoured_even_for_what_makes_something(
    fake: FakeSynadia, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(synadia_api, "_sleep", sleep)
    async with synadia_api.connect(TOKEN, fake.url) as api:
        system = await find_system(api, None)
        fake.calls.clear()
        fake.answer_with = [web.json_response({}, status=429, headers={"Retry-After": wait}) for wait in ("7", "3")]
        await Synadia(api, system).create_account(NAME, ACCOUNT)
        assert [method for method, _ in fake.calls] == ["POST"] * 3
        assert slept == [7, 3]
        fake.calls.clear()
        fake.answer_with = [refused(503, "perhaps")]
        with pytest.raises(ProvisioningError, match=r"503.*perhaps; run it again"):
            await Synadia(api, system).create_account("POC-XX", ACCOUNT)
        assert len(fake.calls) == 1, "it may have been made: never a second account"


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (400, "bad field", "bad field"),
        (403, "not an owner", "not an owner; ask an owner of the team"),
        (404, "gone", "gone; it may have been deleted"),
        (409, "the name is taken", "the name is taken; choose other initials"),
        (422, "the tier allows no more", "the tier allows no more; free some of the quota"),
    ],
)
async def test_a_refusal_is_the_servers_reason_and_what_to_do(
    fake: FakeSynadia, status: int, message: str, says: str
) -> None:
    fake.answer_with = [refused(status, message)]
    async with synadia_api.connect(TOKEN, fake.url) as api:
        with pytest.raises(ProvisioningError) as caught:
            await find_system(api, None)
    assert str(caught.value).startswith(f"Synadia says {status} to GET /core/beta/teams: ")
    assert says in str(caught.value)


async def test_a_quota_and_a_taken_name_are_the_real_ones(fake: FakeSynadia, tmp_path: Path) -> None:
    fake.quota = 0
    with pytest.raises(ProvisioningError, match=r"422 .*the tier allows no more accounts"):
        await create(fake, Files(tmp_path))
    fake.quota = 10
    fake.add_account(NAME)
    with pytest.raises(ProvisioningError, match=f"account {NAME} is not made by this program"):
        await create(fake, Files(tmp_path))
    fake.add_account(NAME, tags=[TAG])
    with pytest.raises(ProvisioningError, match=f"there are 2 accounts named {NAME}"):
        await create(fake, Files(tmp_path))


async def test_an_expired_token(fake: FakeSynadia, tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match=r"401 .*token is expired; make a new personal access token") as caught:
        await create(fake, Files(tmp_path), token="uat_secret")
    assert "uat_secret" not in str(caught.value)


async def test_no_server() -> None:
    async with synadia_api.connect(TOKEN, "http://127.0.0.1:9/api") as api:
        with pytest.raises(ProvisioningError, match=r"127\.0\.0\.1 cannot be reached .*run it again"):
            await api.get("/core/beta/teams")


async def test_the_system_is_chosen_or_asked_for(fake: FakeSynadia) -> None:
    async with synadia_api.connect(TOKEN, fake.url) as api:
        assert (await find_system(api, None)).name == "NGS"
        fake.systems = ["A", "B", "C"]
        assert (await find_system(api, "B")).id == "sys-B"
        assert (await find_system(api, "sys-C")).name == "C"
        with pytest.raises(
            ProvisioningError, match=r"cannot tell which system you mean; give --system one of: A \(sys-A\), B"
        ):
            await find_system(api, None)
        with pytest.raises(ProvisioningError, match="there is no system Z"):
            await find_system(api, "Z")
        fake.systems, fake.jetstream = ["A"], False
        provider = Synadia(api, await find_system(api, None))
        assert [account.name for account in await provider.accounts()] == ["SYS"], "a list needs no JetStream"
        with pytest.raises(ProvisioningError, match="system A has no JetStream"):
            await reconcile.plan(provider, NAME, ACCOUNT, Files(Path("none")))


@pytest.mark.parametrize(("tiers", "replicas"), [(["R1", "R3"], 3), (["R1"], 1)])
async def test_replicas_are_what_the_tier_allows(
    fake: FakeSynadia, tmp_path: Path, tiers: list[str], replicas: int
) -> None:
    fake.tiers = tiers
    await create(fake, Files(tmp_path))
    complete(fake)
    (stream,) = fake.streams.values()
    assert stream["num_replicas"] == replicas
    assert fake.account(NAME).settings["limits"]["tiered_limits"].keys() == {f"R{replicas}"}
    async with synadia_api.connect(TOKEN, fake.url) as api:
        provider = Synadia(api, await find_system(api, None))
        planned = await reconcile.plan(provider, NAME, ACCOUNT, Files(tmp_path))
    assert not planned.changes
    assert bool(planned.remarks) is (replicas < 3)


async def test_a_signing_group_is_found_or_made(fake: FakeSynadia, tmp_path: Path) -> None:
    account = fake.add_account(NAME, tags=[TAG])
    common = {"name": "x", "programmatic": False, "created": "2026-01-01T00:00:00Z"}
    usable = {**common, "disabled": False, "is_scoped": False, "missing_seed": False}
    for name, state in (("scoped", {"is_scoped": True}), ("off", {"disabled": True}), ("good", {})):
        fake.groups[name] = {"id": name, **usable, **state}
        fake.owner[name], fake.group_keys[name] = account, Key.account()
    await create(fake, Files(tmp_path))
    assert {user.group for user in fake.users.values()} == {"good"}


async def test_a_system_needs_one_call_when_its_id_is_given(fake: FakeSynadia) -> None:
    async with synadia_api.connect(TOKEN, fake.url) as api:
        await find_system(api, "sys-NGS")
    assert fake.calls == [("GET", "/api/core/beta/systems/sys-NGS")]


@pytest.mark.parametrize(("tiers", "replicas"), [(["gold"], 3), (["gold", "R1"], 1), ([], 3)])
async def test_a_tier_may_have_any_name(fake: FakeSynadia, tiers: list[str], replicas: int) -> None:
    fake.tiers = tiers
    async with synadia_api.connect(TOKEN, fake.url) as api:
        assert (await find_system(api, None)).replicas == replicas
