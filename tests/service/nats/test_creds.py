"""What the `nats` CLI connects with, the service and the control plane connect with; what is wrong is said."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable

import pytest

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.auth.creds import Creds
from control_plane.desired import SERVICE
from service.contracts.customer import INBOX_PREFIX
from service.customer.settings import CustomerSettings
from service.nats.connection import Connection
from service.nats.creds import parse
from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError
from service.runtime.settings import load
from tests.support.world import World

KEY = Key.user()
ACCOUNT = Key.account()
TOKEN = claims.user_jwt(SERVICE, KEY.public, ACCOUNT, account=ACCOUNT.public)
TEXT = claims.creds_file(TOKEN, KEY)


def seed_line(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("SU"))


# Each is a file that nats.go's ParseDecoratedJWT and ParseDecoratedUserNKey take, but for white space in a line.
TAKEN: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda text: text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "a byte-order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "both": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "text around": lambda text: f"# mine — für uns\n\n{text}\nbye".encode(),
    "text around that is not UTF-8": lambda text: b"\xfc\xff\n" + text.encode(),
    "no last newline": lambda text: text[: text.rindex("------") + 6].encode(),
    "other words between the dashes": lambda text: (
        text.replace("NATS USER", "USER").replace("NKEY SEED", "KEY").encode()
    ),
    "three dashes": lambda text: text.replace("------", "---").replace("-----", "---").encode(),
    "spaces at the ends of lines": lambda text: text.replace("\n", "  \n").encode(),
    "indented": lambda text: "\n".join(f"    {line}" for line in text.splitlines()).encode(),
    "a seed without its lines": lambda text: (text[: text.index("*")] + seed_line(text)).encode(),
}


@pytest.mark.parametrize("given", TAKEN.values(), ids=TAKEN)
async def test_what_the_ecosystem_reads_is_read_and_connects(given: Callable[[str], bytes], world: World) -> None:
    creds = world.creds("service")
    file = given(creds)
    assert parse(file).text == creds
    assert Creds.parse(file.decode(errors="replace")).text == creds, "the control plane reads what the service reads"
    settings = NatsSettings(nats_url=world.nats_url, nats_credentials=base64.b64encode(file).decode())  # type: ignore[arg-type]
    connection = Connection(settings, name="test", inbox_prefix=INBOX_PREFIX, on_lost=lambda _: None)
    await connection.open()
    await connection.close()


REFUSED = {
    "cut seed": (TEXT.replace(KEY.seed, KEY.seed[:30]), "truncated or damaged seed"),
    "seed with another letter": (
        TEXT.replace(KEY.seed, KEY.seed[:20] + ("A" if KEY.seed[20] != "A" else "B") + KEY.seed[21:]),
        "truncated or damaged seed",
    ),
    "JWT without a seed": (TEXT[: TEXT.index("*")], "has a JWT and no seed"),
    "bare JWT": (TOKEN, "has a JWT and no seed"),
    "seed without a JWT": (TEXT[TEXT.index("*") :], "has a seed and no JWT"),
    "bare seed": (KEY.seed, "has a seed and no JWT"),
    "cut JWT": (TEXT.replace(TOKEN, TOKEN[:60]), "a damaged or truncated JWT"),
    "another user's seed": (TEXT.replace(KEY.seed, Key.user().seed), "the seed of another"),
    "an account's seed": (TEXT.replace(KEY.seed, ACCOUNT.seed), "the seed of an account or operator"),
    "something else": ("secret, nothing of the kind", "not a .creds file"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_said_of_nats_credentials(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDB_TABLE", "t")
    monkeypatch.setenv("NATS_CREDENTIALS", base64.b64encode(text.encode()).decode())
    with pytest.raises(ServiceError) as caught:
        load(CustomerSettings)
    assert str(caught.value).startswith("NATS_CREDENTIALS is not valid: ")
    assert reason in str(caught.value)
    assert not {KEY.seed, TOKEN} & set(str(caught.value).split())


@pytest.mark.parametrize("value", [TEXT, "not base64!", base64.b64encode(TEXT.encode()).decode()[:-7] + "!"])
def test_what_is_not_base64_is_said(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDB_TABLE", "t")
    monkeypatch.setenv("NATS_CREDENTIALS", value)
    with pytest.raises(ServiceError, match=r"^NATS_CREDENTIALS is not valid: must be the base64 of a \.creds file"):
        load(CustomerSettings)


async def test_a_server_that_refuses_expired_ones_is_said_with_their_end(world: World) -> None:
    text = claims.mint_creds(SERVICE, world.account, account=world.account.public, expires_s=-10)
    settings = NatsSettings(nats_url=world.nats_url, nats_credentials=base64.b64encode(text.encode()).decode())  # type: ignore[arg-type]
    connection = Connection(settings, name="test", inbox_prefix=INBOX_PREFIX, on_lost=lambda _: None)
    with pytest.raises(ServiceError, match=r"refuses the credentials \(.*NATS_CREDENTIALS expired at 20..-.*Z") as said:
        await connection.open()
    await connection.close()
    assert "NATS_CREDENTIALS" in said.value.remedy
