"""A JWT minted here is what a real nats-server takes; one expired, revoked or signed by a stranger is refused."""

from __future__ import annotations

import base64
import json
import logging
import time
from typing import Any

import pytest

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT, CLIENT, SERVICE
from control_plane.errors import ProvisioningError
from control_plane.resources import Limits, User
from control_plane.self_hosted import provider as self_hosted
from service.nats.connection import roundtrip
from tests.support.world import World

EVERYTHING = User(name="everything", publish=(">",), subscribe=(">",))


def decoded(token: str) -> dict[str, object]:
    body = token.split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def test_a_users_claims() -> None:
    account, signer, user = Key.account(), Key.account(), Key.user()
    token = claims.user_jwt(CLIENT, user.public, signer, account=account.public, expires_s=60)
    body = decoded(token)
    assert (body["iss"], body["sub"], body["name"]) == (signer.public, user.public, "client")
    assert abs(int(str(body["exp"])) - time.time() - 60) < 5
    nats = body["nats"]
    assert isinstance(nats, dict)
    assert (nats["type"], nats["version"], nats["issuer_account"]) == ("user", 2, account.public)
    assert nats["pub"] == {"allow": list(CLIENT.publish)}
    assert "resp" not in nats


def test_the_service_may_answer_once() -> None:
    nats = decoded(claims.user_jwt(SERVICE, Key.user().public, Key.account(), account="A"))["nats"]
    assert isinstance(nats, dict)
    assert nats["resp"] == {"max": 1, "ttl": 60_000_000_000}


def test_the_claims_of_an_account_as_a_server_reads_them() -> None:
    operator, account = Key.operator(), Key.account()
    system = decoded(claims.account_jwt("SYS", account.public, operator))
    assert system["nats"] == {
        "type": "account", "version": 2, "signing_keys": [], "default_permissions": {"pub": {}, "sub": {}},
        "limits": {
            "conn": -1, "subs": -1, "data": -1, "payload": -1, "leaf": -1, "imports": -1, "exports": -1,
            "wildcards": True, "disk_storage": 0, "mem_storage": 0, "streams": 0, "consumer": 0,
        },
    }  # fmt: skip
    assert (system["iss"], system["sub"], system["name"]) == (operator.public, account.public, "SYS")
    assert "exp" not in system
    limits = Limits(connections=1, subscriptions=2, disk_bytes=3, memory_bytes=4, streams=5, consumers=6)
    given = claims.account_jwt(
        "n", account.public, operator, limits=limits, signing_keys=["A1"], revoked={"U1": 7}, tags=["t"]
    )
    body: Any = decoded(given)["nats"]
    assert (
        body["limits"] | {"conn": 1, "subs": 2, "disk_storage": 3, "mem_storage": 4, "streams": 5, "consumer": 6}
        == (body["limits"])
    )
    assert (body["signing_keys"], body["revocations"], body["tags"]) == (["A1"], {"U1": 7}, ["t"])


def test_a_jwt_of_any_length_is_decoded_and_any_other_text_is_refused() -> None:
    for length in range(5):
        token = claims.operator_jwt("x" * length, Key.operator(), "A")
        assert claims.decode(token) == decoded(token)
    for text in ("", "a.b", "a.b.c.d", "e30.W10.x", "e30.!.x", "e30.bnVsbA.x"):
        with pytest.raises(ValueError, match=r"^not a JWT$"):
            claims.decode(text)


def test_a_signature_is_its_keys_alone() -> None:
    ours, theirs = Key.user(), Key.user()
    algorithm = claims._Ed25519Nkey()
    assert algorithm.verify(b"m", ours, ours.sign(b"m"))
    assert not algorithm.verify(b"m", ours, theirs.sign(b"m"))


def test_keys_are_of_their_kind_and_hide_their_seeds(caplog: pytest.LogCaptureFixture) -> None:
    for key, letter in ((Key.operator(), "O"), (Key.account(), "A"), (Key.user(), "U")):
        assert key.public.startswith(letter)
        assert key.seed.startswith(f"S{letter}")
        assert key.seed not in repr(key)
        logging.getLogger().warning("%s", key)
        assert key.seed not in caplog.text
        assert Key.from_seed(key.seed) == key
    for seed in ("SUNOTASEED", "", "S\u00fc", Key.user().seed[:-1]):
        with pytest.raises(ValueError, match="not an nkey seed"):
            Key.from_seed(seed)


async def connects(world: World, creds: str) -> bool:
    try:
        async with self_hosted.connected(world.nats_url, creds) as client:
            await roundtrip(client)
    except ProvisioningError as error:
        assert "authorization" in str(error).lower()
        assert "SU" not in str(error)
        return False
    return True


async def test_what_is_minted_here_is_taken(world: World) -> None:
    assert await connects(world, claims.mint_creds(EVERYTHING, world.account, account=world.account.public))
    assert await connects(
        world, claims.mint_creds(EVERYTHING, world.account, account=world.account.public, expires_s=60)
    )


async def test_a_signing_key_signs_for_its_account(world: World) -> None:
    signing = Key.account()
    creds = claims.mint_creds(EVERYTHING, signing, account=world.account.public)
    assert not await connects(world, creds)
    await world.push(signing_keys=[signing.public])
    assert await connects(world, creds)


async def test_expired_and_strangers_are_refused(world: World) -> None:
    public = world.account.public
    assert not await connects(world, claims.mint_creds(EVERYTHING, world.account, account=public, expires_s=-1))
    assert not await connects(world, claims.mint_creds(EVERYTHING, Key.account(), account=public))
    token = claims.user_jwt(EVERYTHING, Key.user().public, world.account, account=public)
    assert not await connects(world, claims.creds_file(token, Key.user())), "another user's seed"


async def test_a_revoked_user_is_refused_and_the_others_are_not(world: World) -> None:
    revoked, other = Key.user(), Key.user()

    def creds(key: Key) -> str:
        token = claims.user_jwt(EVERYTHING, key.public, world.account, account=world.account.public)
        return claims.creds_file(token, key)

    await world.push(revoked={revoked.public: int(time.time()) + 1})
    assert not await connects(world, creds(revoked))
    assert await connects(world, creds(other))


async def test_an_account_of_a_strangers_is_nobodys(world: World) -> None:
    """The resolver stores what the system account gives it; the server trusts its operator alone."""
    account = Key.account()
    token = claims.account_jwt("test", account.public, Key.operator(), limits=ACCOUNT.limits)
    async with self_hosted.connected(world.nats_url, world.servers.system_creds) as system:
        await self_hosted.push_account(system, token)
    assert not await connects(world, claims.mint_creds(EVERYTHING, account, account=account.public))


async def test_what_is_no_account_is_refused(world: World) -> None:
    async with self_hosted.connected(world.nats_url, world.servers.system_creds) as system:
        with pytest.raises(ProvisioningError, match="the server refused"):
            await self_hosted.push_account(system, "not.a.jwt")


async def test_only_the_system_account_takes_accounts(world: World) -> None:
    async with world.administrator() as admin:
        with pytest.raises(ProvisioningError, match="user of its system account"):
            await self_hosted.push_account(admin._nc, "x")
