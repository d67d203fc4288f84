"""A bad variable is one line that names it, and never its value."""

from __future__ import annotations

import base64

import pytest

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import CLIENT
from service.customer.settings import CustomerSettings
from service.runtime.errors import ServiceError
from service.runtime.settings import load

KEY = Key.user()
CREDS = claims.creds_file(claims.user_jwt(CLIENT, KEY.public, KEY, account=KEY.public), KEY)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CustomerSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DDB_TABLE", "balances")


def test_defaults() -> None:
    loaded = load(CustomerSettings)
    assert loaded.nats_servers == ["tls://connect.ngs.global"]
    assert loaded.nats_credentials is None
    assert (loaded.seed_rows, loaded.max_in_flight, loaded.health_port, loaded.shutdown_timeout) == (
        1000,
        2048,
        8080,
        25,
    )
    assert (loaded.log_level, loaded.log_format) == ("info", None)


def test_credentials_are_decoded_and_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_CREDENTIALS", base64.encodebytes(CREDS.encode()).decode())
    loaded = load(CustomerSettings)
    assert loaded.nats_credentials is not None
    assert loaded.nats_credentials.get_secret_value() == CREDS
    assert KEY.seed not in repr(loaded)
    assert KEY.seed not in str(loaded)


def test_several_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://a:4222, tls://b")
    assert load(CustomerSettings).nats_servers == ["nats://a:4222", "tls://b"]


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_IN_FLIGHT", "")
    assert load(CustomerSettings).max_in_flight == 2048


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DDB_TABLE", ""),
        ("DDB_TABLE", "no spaces"),
        ("NATS_URL", "http://somewhere"),
        ("NATS_URL", "nats://a,,nats://b"),
        ("NATS_CREDENTIALS", "not base64 secret"),
        ("NATS_CREDENTIALS", base64.b64encode(b"secret, not a creds file").decode()),
        ("SEED_ROWS", "-1"),
        ("SEED_ROWS", "many"),
        ("MAX_IN_FLIGHT", "0"),
        ("HEALTH_PORT", "65536"),
        ("SHUTDOWN_TIMEOUT", "0"),
        ("SHUTDOWN_TIMEOUT", "nan"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_variable_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ServiceError) as caught:
        load(CustomerSettings)
    assert str(caught.value).startswith(f"{name} is not ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
