"""Whatever is not as declared is seen: compared and put right, or named as not compared, or as what cannot change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT, EVERYTHING
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.reconcile import reconcile
from control_plane.resources import Consumer, Limits, Part, Stream, User
from control_plane.self_hosted import provider as self_hosted
from control_plane.settings import differences, user_settings
from tests.control_plane.conftest import Program
from tests.support.world import Servers

USER: dict[str, Any] = {
    "bearer_token": True,
    "payload": 0,
    "subs": 0,
    "data": 5,
    "src": ["10.0.0.0/8"],
    "times": [{"start": "08:00:00", "end": "09:00:00"}],
    "allowed_connection_types": ["MQTT"],
    "resp": {"max": 5, "ttl": 1},
    "pub": {"allow": ["customer.balance"], "deny": ["customer.balance"]},
    "sub": {"allow": ["_INBOX.>", "customer.balance.>"], "deny": ["_INBOX.x"]},
}
STREAM: dict[str, Any] = {
    "no_ack": True,
    "max_msgs": 5,
    "max_msg_size": 100,
    "max_msgs_per_subject": 1,
    "allow_batched": False,
    "allow_rollup_hdrs": True,
    "compression": "s2",
    "discard_new_per_subject": True,
    "discard": "new",
    "retention": "interest",
    "subjects": ["customer.>"],
    "republish": {"src": ">", "dest": "copy.>"},
    "consumer_limits": {"max_ack_pending": 1},
}
BUCKET: dict[str, Any] = {"history": 5, "max_age": 5, "max_value_size": 10, "compression": True, "max_bytes": 7}


async def test_drift_is_seen_and_corrected_setting_by_setting(program: Program) -> None:
    await program("create")
    fake = program.fake
    (stream,), (bucket,) = fake.streams.values(), fake.buckets.values()
    for there, strange in ((fake.user("client").settings, USER), (stream, STREAM), (bucket, BUCKET)):
        there |= strange
    stream["metadata"] = {"kept": "as it is"}
    code, output, _ = await program("status", "--json")
    assert code == 3
    told = {
        entry["resource"]: {difference["field"] for difference in entry["differences"]}
        for entry in json.loads(output)["resources"]
        if entry["differences"]
    }
    assert told == {
        "user client": USER.keys() - {"pub", "sub", "resp"}
        | {"pub.allow", "pub.deny", "sub.allow", "sub.deny", "resp.max", "resp.ttl"},
        "stream customer-balances": STREAM.keys() - {"republish", "consumer_limits"}
        | {"republish.src", "republish.dest", "consumer_limits.max_ack_pending"},
        "bucket config": BUCKET.keys(),
    }
    _, output, _ = await program("create")
    changed = [line.split()[1] for line in output.splitlines() if line.startswith("changed")]
    assert changed == ["user", "stream", "bucket"]
    assert (await program("status"))[0] == 0
    (stream,) = fake.streams.values()
    assert stream["metadata"] == {"kept": "as it is"}


async def test_what_cannot_change_is_said(program: Program) -> None:
    await program("create")
    (stream,) = program.fake.streams.values()
    right = dict(stream)
    for setting in ("sealed", "deny_purge", "deny_delete", "storage"):
        stream |= {**right, setting: "memory" if setting == "storage" else True}
        assert (await program("status"))[0] == 3
        code, _, error = await program("create")
        assert code == 1
        assert f"{setting} of stream customer-balances is" in error
        assert error.endswith("; delete the stream by hand, with what is in it, and run create again\n")


async def test_a_buckets_storage_cannot_change(program: Program) -> None:
    await program("create")
    (bucket,) = program.fake.buckets.values()
    bucket["storage"] = "memory"
    assert (await program("status"))[0] == 3
    code, _, error = await program("create")
    assert (code, "storage of bucket config is memory and cannot become file" in error) == (1, True)


async def test_what_nobody_declared_is_named(program: Program) -> None:
    await program("create")
    fake = program.fake
    account = fake.account("POC-TT")
    account.settings["limits"] |= {"payload": 10, "exports": 0, "wildcards": True, "leaf": -1}
    fake.users["x"] = type(fake.user("client"))("x", account.id, "stranger", fake.user("client").group, {})
    code, output, _ = await program("status")
    assert code == 0
    (note,) = [line for line in output.splitlines() if line.startswith("note")]
    assert note.endswith("left alone: user stranger, limit payload = 10, limit exports = 0")
    assert note in (await program("create"))[1].replace("note     ", "note       ")


async def test_limits_drift_is_corrected(program: Program) -> None:
    await program("create")
    limits = program.fake.account("POC-TT").settings["limits"]
    limits["conn"], limits["tiered_limits"]["R3"]["disk_storage"] = 1, 5
    code, output, _ = await program("status")
    assert code == 3
    assert "drifted    limits\n  * conn  wanted 100, there 1\n  * disk_storage  wanted" in output
    assert (await program("create"))[0] == 0
    assert (await program("status"))[0] == 0


PART = Part(
    User("worker", publish=("$JS.API.CONSUMER.MSG.NEXT.customer-balances.worker",), subscribe=("_INBOX.>",)),
    streams=(Stream("worker-dead", ("worker.dead.>",), max_age_s=60, max_bytes=1000, duplicate_window_s=10),),
    consumers=(Consumer("customer-balances", "worker", ack_wait_s=30, max_ack_pending=20_000),),
)


async def test_a_part_is_made_when_asked_for_and_looked_after_from_then_on(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.cli.command.PARTS", (PART,))
    monkeypatch.setattr(reconcile, "PARTS", (PART,))
    await program("create")
    assert (await program("status"))[0] == 0
    assert (
        "would create  consumer worker of customer-balances"
        in (await program("create", "--with", "worker", "--dry-run"))[1]
    )
    _, output, _ = await program("create", "--with", "worker")
    for made in ("user worker", "stream worker-dead", "consumer worker of customer-balances"):
        assert f"created  {made}\n" in output
    assert (await program("status"))[0] == 0
    (consumer,) = program.fake.consumers.values()
    consumer |= {"ack_wait": 5, "headers_only": True, "backoff": [1]}
    code, output, _ = await program("status")
    assert code == 3
    assert "* ack_wait  wanted 30 s, there 5e-09 s" in output
    del consumer["headers_only"]  # which the API cannot take back
    assert (await program("create"))[0] == 0
    assert (await program("status"))[0] == 0
    assert program.fake.consumers.popitem()[1]["backoff"] == []


async def test_the_archived_stream_has_the_size_that_was_asked_for(program: Program) -> None:
    """A larger one is never made smaller unless that is said: it would discard events."""

    def there() -> tuple[int, int]:
        limits = program.fake.account("POC-TT").settings["limits"]["tiered_limits"]["R3"]
        (stream,) = (each for each in program.fake.streams.values() if each["name"] == "customer-balances")
        return stream["max_bytes"] // 1024**2, limits["disk_storage"] // 1024**2

    await program("create")
    assert there() == (10, 64)
    code, _, error = await program("create", "--stream-size", "2GiB")
    assert (code, "give --with archive too" in error) == (2, True)
    await program("create", "--with", "archive")
    size, disk = there()
    assert size == 1024
    await program("create", "--stream-size", "2GiB")
    assert there() == (2048, disk + 3 * 1024)
    for command in ("create", "status"):
        assert (await program(command))[0] == 0
    assert there() == (2048, disk + 3 * 1024)
    assert (await program("status", "--stream-size", "1GiB"))[0] == 3
    await program("create", "--stream-size", "1GiB")
    assert there() == (size, disk)


@pytest.mark.parametrize("size", ["5", "5GB", "0GiB", "9MiB", "11TiB", "-5GiB", "GiB"])
async def test_a_size_that_cannot_be_meant_is_said(program: Program, size: str) -> None:
    code, _, error = await program("create", "--with", "archive", "--stream-size", size)
    assert (code, "such as 5GiB" in error) == (2, True)


async def test_on_your_own_server_drift_is_seen_too(servers: Servers, tmp_path: Any) -> None:
    """Consumers and denials as the real server keeps them."""
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        provider = self_hosted.SelfHosted(servers.nats_url, system, servers.operator, servers.system.public)
        files, wanted = Files(tmp_path / "own"), ACCOUNT.plus([PART])

        async def due() -> list[tuple[str, list[str]]]:
            changes = (await reconcile.plan(provider, "POC-DR", wanted, files)).changes
            return [(step.resource, [difference.field for difference in step.differences]) for step in changes]

        async def create() -> None:
            planned = await reconcile.plan(provider, "POC-DR", wanted, files)
            async for _ in reconcile.apply(provider, planned):
                pass

        await create()
        account = await reconcile.find(provider, "POC-DR")
        assert account
        try:
            assert await due() == []
            creds = self_hosted.administrator_of(servers.operator, account.id)
            async with self_hosted.connected(servers.nats_url, creds) as client:
                js = client.jetstream()
                config = (await js.consumer_info("customer-balances", "worker")).config
                await js.add_consumer("customer-balances", config.evolve(ack_wait=5, max_ack_pending=1))
                stream = (await js.stream_info("customer-balances")).config
                await js.update_stream(stream.evolve(max_msgs=5, max_msg_size=100, allow_direct=True))
            denied = user_settings(ACCOUNT.user("client")) | {"sub": {"allow": ["_INBOX.>"], "deny": ["_INBOX.x"]}}

            def drift(body: dict[str, Any]) -> None:
                scope = next(key for key in body["signing_keys"] if isinstance(key, dict) and key["role"] == "client")
                scope["template"] = denied
                body["limits"]["conn"] = 3

            await provider.change(account.id, drift)
            assert await due() == [
                ("limits", ["conn"]),
                ("user client", ["sub.deny"]),
                ("stream customer-balances", ["max_msgs", "max_msg_size", "allow_direct"]),
                ("consumer worker of customer-balances", ["ack_wait", "max_ack_pending"]),
            ]
            await create()
            assert await due() == []
        finally:
            for step in await reconcile.deletions(provider, account, files):
                await step.do(account.id)


async def test_an_account_that_somebody_else_made_is_left_alone_or_adopted(program: Program) -> None:
    account = program.fake.accounts[program.fake.add_account("POC-TT", tags=["theirs"])]
    for command in (("create",), ("status",), ("delete", "--yes"), ("rotate", "--user", "client")):
        code, _, error = await program(*command)
        assert code == 1
        assert "account POC-TT is not made by this program, and is left alone" in error
        assert "take it over with `create --adopt`" in error
    assert account.settings == {"tags": ["theirs"]}
    assert program.fake.users == {}
    _, planned, _ = await program("create", "--adopt", "--dry-run")
    assert "would change  account POC-TT: made by another program -> this program" in planned
    assert (await program("create", "--adopt"))[0] == 0
    assert account.settings["tags"] == ["theirs", "customer-balance"]
    assert (await program("status"))[0] == 0


async def test_on_your_own_server_an_account_may_be_adopted(servers: Servers, tmp_path: Any) -> None:
    account = Key.account()
    token = claims.account_jwt("POC-AD", account.public, servers.operator, limits=Limits())
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        provider = self_hosted.SelfHosted(servers.nats_url, system, servers.operator, servers.system.public)
        await self_hosted.push_account(system, token)
        try:
            with pytest.raises(ProvisioningError, match="not made by this program"):
                await reconcile.plan(provider, "POC-AD", ACCOUNT, Files(tmp_path))
            found = await reconcile.find(provider, "POC-AD", adopt=True)
            assert found
            planned = await reconcile.compare(provider, "POC-AD", found, ACCOUNT, Files(tmp_path))
            async for _ in reconcile.apply(provider, planned):
                pass
            assert not (await reconcile.plan(provider, "POC-AD", ACCOUNT, Files(tmp_path))).changes
        finally:
            await self_hosted.delete_account(system, account.public, servers.operator)


async def test_an_account_in_lower_case_is_found(program: Program) -> None:
    program.fake.add_account("POC-do", tags=["customer-balance"])
    for initials in ("DO", "do"):
        assert (await program("create", "--initials", initials))[0] == 0
    assert [account.name for account in program.fake.accounts.values()] == ["SYS", "POC-do"]
    assert (program.config / "POC-do" / "client.creds").exists()
    await program("create", "--initials", "ab")
    assert program.fake.account("POC-AB").settings["tags"] == ["customer-balance"]


def test_what_a_server_fills_in_is_no_drift() -> None:
    wanted = user_settings(ACCOUNT.user("client"))
    filled = {**wanted, "bearer_token": False, "src": [], "times": None, "resp": None, "tags": ["x"]}
    assert differences("user", wanted, filled) == ()
    other_order = {**wanted, "pub": {"allow": list(reversed(wanted["pub"]["allow"]))}}
    assert differences("user", wanted, other_order) == ()


def test_the_streams_fit_into_the_account() -> None:

    streams = sum(each.max_bytes * each.replicas for each in EVERYTHING.streams)
    stored = streams + sum(each.max_bytes * each.replicas for each in EVERYTHING.buckets)
    assert stored <= EVERYTHING.limits.disk_bytes
    assert len(EVERYTHING.streams) + len(EVERYTHING.buckets) <= EVERYTHING.limits.streams
