"""A refresh that hangs or fails stops no call while the credentials are valid."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError, MetadataRetrievalError
from botocore.session import Session

from service.customer.store.rows import make_row
from service.customer.store.rows import refusal as refusal_of
from service.dynamodb import credentials
from service.dynamodb.credentials import CredentialChain, Timing
from service.dynamodb.errors import CredentialsRefreshError, TableUnavailableError
from service.runtime.errors import ServiceError
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal
from tests.support.dynamodb.table import open_table
from tests.support.world import World, eventually

Given = dict[str, str]


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def metadata(key: str, seconds: float) -> Given:
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"access_key": key, "secret_key": "s", "token": "t", "expiry_time": expires.isoformat()}


async def loaded(
    monkeypatch: pytest.MonkeyPatch,
    refresh: Callable[[], Given],
    *,
    remain_s: float,
    timing: Timing = Timing(retry_s=-1.0),
) -> CredentialChain:
    """A chain that has credentials, which expire in so many seconds."""
    found: Any = RefreshableCredentials.create_from_metadata(metadata("FIRST", 3600), refresh, "test")
    monkeypatch.setattr(Session, "get_credentials", lambda _: found)
    chain = CredentialChain(timing=timing)
    assert (await chain.current(soon())).access_key == "FIRST"
    found._expiry_time = datetime.now(UTC) + timedelta(seconds=remain_s)
    return chain


async def test_calls_go_on_while_a_refresh_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, released = threading.Event(), threading.Event()

    def hang() -> Given:
        begun.set()
        released.wait(20)
        return metadata("SECOND", 3600)

    chain = await loaded(monkeypatch, hang, remain_s=300)
    for _ in range(100):
        assert (await chain.current(soon())).access_key == "FIRST"
    await eventually(begun.is_set, what="a refresh in the background")
    assert (await chain.current(soon())).access_key == "FIRST"
    released.set()

    async def renewed() -> bool:
        return (await chain.current(soon())).access_key == "SECOND"

    await eventually(renewed)


def fail() -> Given:
    raise OSError("the endpoint is away")


async def test_calls_go_on_while_refreshes_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = await loaded(monkeypatch, fail, remain_s=300, timing=Timing(retry_s=60.0))
    chain._tried_s = float("-inf")
    for _ in range(100):
        assert (await chain.current(soon())).access_key == "FIRST"
    first = chain._loading
    assert first
    await eventually(first.done)
    assert (await chain.current(soon())).access_key == "FIRST"
    assert chain._loading is first, "each call tries again"


async def test_expired_credentials_are_an_error_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = await loaded(monkeypatch, fail, remain_s=-1)
    with pytest.raises(CredentialsRefreshError, match="have expired"):
        await chain.current(soon())


@pytest.mark.parametrize("remain_s", [None, -1.0], ids=["none yet", "expired ones"])
async def test_a_load_that_hangs_holds_a_call_up_to_its_deadline_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, remain_s: float | None
) -> None:
    released = threading.Event()

    def hang(*_: Any) -> Any:
        released.wait(20)
        return RefreshableCredentials.create_from_metadata(metadata("LATE", 3600), dict, "test")

    if remain_s is None:
        monkeypatch.setattr(Session, "get_credentials", hang)
        chain = CredentialChain()
    else:
        chain = await loaded(monkeypatch, lambda: hang() and metadata("LATE", 3600), remain_s=remain_s)
    with pytest.raises(CredentialsRefreshError):
        await chain.current(soon(0.05))
    released.set()
    assert (await chain.current(soon())).access_key == "LATE"


def broken(*_: Any) -> Any:
    return Credentials("key", "")


def raising(error: Exception) -> Callable[..., Any]:
    def provide(*_: Any) -> Any:
        raise error

    return provide


@pytest.mark.parametrize(
    "provide",
    [
        raising(KeyError("SecretAccessKey")),
        raising(OSError("away")),
        raising(ValueError("not a date")),
        raising(TimeoutError()),
        raising(MetadataRetrievalError(error_msg="HTTP 500")),
        lambda *_: None,
        broken,
    ],
    ids=["KeyError", "OSError", "ValueError", "TimeoutError", "botocore's", "none", "a part of some"],
)
async def test_whatever_a_provider_does_after_a_token_expired_is_a_503(
    world: World,
    proxy: FaultyDynamoDB,
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    provide: Callable[..., Any],
) -> None:
    world.put_rows({"1": 10})
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    async with open_table(world.table) as table:
        table._api._chain = CredentialChain(timing=Timing(retry_s=-1.0, failed_s=0.0))
        assert await table.get("1") == make_row("1", 10)
        proxy.fault = lambda *_: refusal("ExpiredTokenException")
        await table.get("1")
        proxy.fault = None
        with monkeypatch.context() as patch:
            patch.setattr(Session, "get_credentials", provide)
            outcome = await table.get("1")
            assert isinstance(outcome, TableUnavailableError)
            assert refusal_of("1", outcome).code == "503"
            with pytest.raises(TableUnavailableError):
                await table.insert(make_row("2", 20))
        assert await table.get("1") == make_row("1", 10), "it recovers"


@pytest.mark.parametrize("provide", [raising(KeyError("SecretAccessKey")), raising(OSError("away"))])
async def test_a_provider_that_fails_at_once_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, provide: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Session, "get_credentials", provide)
    with pytest.raises(CredentialsRefreshError, match=r"cannot be loaded \((KeyError|OSError): "):
        await CredentialChain().current(soon())


async def test_what_a_provider_says_does_not_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    error = CredentialRetrievalError(provider="custom-process", error_msg=f"line 1\nSecretAccessKey: {secret}")
    monkeypatch.setattr(Session, "get_credentials", raising(error))
    with pytest.raises(CredentialsRefreshError) as raised:
        await CredentialChain().current(soon())
    assert "custom-process" in str(raised.value)
    assert "MDENG" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_providers_are_asked_in_the_services_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """STS is asked in it; botocore itself does not read AWS_REGION."""
    asked: list[str] = []

    def provide(session: Session) -> Any:
        asked.append(session.get_config_variable("region"))
        return Credentials("key", "secret")

    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-south-2")
    monkeypatch.setattr(Session, "get_credentials", provide)
    await CredentialChain().current(soon())
    assert asked == ["eu-south-2"]


def test_a_load_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(Session, "get_credentials", lambda _: released.wait(20))

    async def run() -> None:
        with pytest.raises(CredentialsRefreshError, match="no answer in time"):
            await CredentialChain().current(soon(0.05))

    began = time.monotonic()
    uvloop.run(run())
    took_s = time.monotonic() - began
    released.set()
    assert took_s < 10, "of the 20 seconds that the source takes"


async def test_an_expiration_without_a_zone_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a refresh, botocore takes it over, and from then on cannot compare it."""

    def naive() -> Given:
        return {**metadata("NAIVE", 3600), "expiry_time": "2036-01-01T00:00:00"}

    chain = await loaded(monkeypatch, naive, remain_s=-1, timing=Timing(failed_s=0.0))
    with pytest.raises(CredentialsRefreshError, match="TypeError"):
        await chain.current(soon())
    well: Any = Credentials("WELL", "s")
    monkeypatch.setattr(Session, "get_credentials", lambda _: well)
    assert (await chain.current(soon())).access_key == "WELL"


async def test_a_provider_that_ends_by_stop_iteration_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "get_credentials", raising(StopIteration("no more")))
    chain = CredentialChain(timing=Timing(failed_s=0.0))
    with pytest.raises(CredentialsRefreshError, match="StopIteration"):
        await chain.current(soon(30))
    monkeypatch.setattr(Session, "get_credentials", lambda _: Credentials("WELL", "s"))
    assert (await chain.current(soon())).access_key == "WELL"


async def test_a_load_that_hangs_for_long_has_another_beside_it_and_each_waits_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    loads: list[None] = []

    def hang(_: Session) -> Any:
        loads.append(None)
        released.wait(60)
        return Credentials("LATE", "s")

    now_s = time.monotonic()
    monkeypatch.setattr(credentials, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(Session, "get_credentials", hang)
    chain = CredentialChain()

    async def has_begun(count: int) -> None:
        with pytest.raises(CredentialsRefreshError, match="no answer in time"):
            await chain.current(soon(0.05))
        await eventually(lambda: len(loads) >= count, what=f"load {count}")

    await has_begun(1)
    for hung in range(1, 4):
        wait_s = Timing().hung_s * 2 ** (hung - 1)
        now_s += wait_s - 1
        await has_begun(hung)
        assert len(loads) == hung, "not yet"
        now_s += 2
        await has_begun(hung + 1)
    monkeypatch.setattr(Session, "get_credentials", lambda _: Credentials("WELL", "s"))
    now_s += Timing().hung_s * 8 + 1
    assert (await chain.current(soon())).access_key == "WELL"
    released.set()
    await eventually(lambda: not chain._hung, what="the end of those that hung")


async def test_a_refresh_that_hangs_does_not_hold_the_load_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang() -> Given:
        released.wait(60)
        return metadata("LATE", 3600)

    chain = await loaded(monkeypatch, hang, remain_s=-1, timing=Timing(hung_s=0.0))
    with pytest.raises(CredentialsRefreshError, match="no answer in time"):
        await chain.current(soon(0.05))
    monkeypatch.setattr(Session, "get_credentials", lambda _: Credentials("WELL", "s"))
    assert (await chain.current(soon())).access_key == "WELL"
    released.set()


async def test_only_the_credentials_that_were_refused_are_forgotten_and_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []

    def provide(_: Session) -> Any:
        loads.append(f"KEY{len(loads)}")
        return Credentials(loads[-1], "s")

    now_s = time.monotonic()
    monkeypatch.setattr(credentials, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(Session, "get_credentials", provide)
    chain = CredentialChain()
    first = await chain.current(soon())
    chain.forget(first)
    second = await chain.current(soon())
    assert loads == ["KEY0", "KEY1"]
    chain.forget(first)
    assert await chain.current(soon()) is second, "another's late refusal"
    chain.forget(second)
    assert await chain.current(soon()) is second, "too early"
    now_s += Timing().retry_s + 1
    chain.forget(second)
    assert (await chain.current(soon())).access_key == "KEY2"


async def test_calls_that_are_refused_for_good_do_not_have_the_credentials_loaded_each_time(
    proxy: FaultyDynamoDB, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[None] = []

    def provide(_: Session) -> Any:
        loads.append(None)
        return Credentials("key", "secret")

    monkeypatch.setattr(Session, "get_credentials", provide)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    proxy.fault = lambda *_: refusal("UnrecognizedClientException")
    async with open_table("balances") as table:
        table._api._chain = CredentialChain(timing=Timing(retry_s=600.0))
        loads.clear()  # botocore's client is made at the start, with these
        await asyncio.gather(*(table.get("1") for _ in range(50)))
    assert len(proxy.calls) == 150
    assert len(loads) == 2


async def test_loads_that_fail_at_once_do_not_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[None] = []

    def provide(_: Session) -> Any:
        loads.append(None)
        raise OSError("away")

    monkeypatch.setattr(Session, "get_credentials", provide)
    chain = CredentialChain(timing=Timing(failed_s=600.0))
    for _ in range(20):
        with pytest.raises(CredentialsRefreshError, match="away"):
            await chain.current(soon())
    assert len(loads) == 1


async def test_credentials_that_fit_no_endpoint_are_a_503_and_at_the_start_the_cause(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_DYNAMODB")
    monkeypatch.setenv("AWS_ACCOUNT_ID_ENDPOINT_MODE", "required")
    async with open_table("balances") as table:
        outcome = await table.get("1")
        with pytest.raises(ServiceError, match=r"^AWS_ACCOUNT_ID_ENDPOINT_MODE is required.*; set AWS_ACCOUNT_ID"):
            await table.check()
    assert isinstance(outcome, TableUnavailableError)
    assert refusal_of("1", outcome).code == "503"


async def test_an_account_that_a_process_gives_as_a_number_is_an_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = '{"Version":1,"AccessKeyId":"a","SecretAccessKey":"s","AccountId":12345678901}'
    config = tmp_path / "config"
    (tmp_path / "given").write_text(given)
    config.write_text(f"[default]\ncredential_process = cat {tmp_path / 'given'}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert (await CredentialChain().current(soon())).account_id == "012345678901"
