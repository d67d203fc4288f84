"""A `.creds` text is checked when it is read, whatever it is, and shows in no message."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.auth.creds import Creds, Identity, creds_differences
from control_plane.desired import ADMINISTRATOR, CLIENT

ACCOUNT = Key.account()
KEY = Key.user()
TOKEN = claims.user_jwt(CLIENT, KEY.public, ACCOUNT, account=ACCOUNT.public)
TEXT = claims.creds_file(TOKEN, KEY)


def test_a_whole_one_is_read() -> None:
    creds = Creds.parse(TEXT)
    assert (creds.account, creds.key.public) == (ACCOUNT.public, KEY.public)
    assert KEY.seed not in repr(creds)
    assert TEXT.splitlines()[1] not in repr(creds)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3), st.integers(0, 40))
def test_a_damaged_one_is_refused_or_the_same(at: int, put: str, cut: int) -> None:
    damaged = TEXT[:at] + put + TEXT[at + cut :]
    try:
        creds = Creds.parse(damaged)
    except ValueError as error:
        told = str(error)
        assert KEY.seed[:12] not in told
        assert "\n" not in told
    else:
        assert creds.key == KEY


@pytest.mark.parametrize("claim", [{"exp": "soon"}, {"iat": None}, {"nats": []}, {"sub": 7}])
def test_claims_of_another_kind_are_refused(claim: dict[str, object]) -> None:
    body = {**claims.decode(TOKEN), **claim}
    token = "e30." + base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=") + ".x"
    with pytest.raises(ValueError, match=r"^not a \.creds file"):
        Creds.parse(claims.creds_file(token, KEY))


def test_another_users_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="the seed of another"):
        Creds.parse(TEXT.replace(KEY.seed, Key.user().seed))


def fields(identity: Identity, creds: str = TEXT) -> list[str]:
    return [difference.field for difference in creds_differences(Creds.parse(creds), CLIENT, identity)]


def test_what_makes_credentials_the_wrong_ones() -> None:
    right = Identity(ACCOUNT.public, KEY.public)
    issued = Creds.parse(TEXT).claims["iat"]
    assert fields(right) == []
    assert fields(Identity(None, None)) == []
    assert fields(Identity(Key.account().public, KEY.public)) == ["account"]
    assert fields(Identity(ACCOUNT.public, Key.user().public)) == ["key"]
    assert fields(Identity(ACCOUNT.public, issuer=Key.account().public)) == ["issuer"]
    for revoked in ({KEY.public: issued}, {"*": issued}):
        assert fields(Identity(ACCOUNT.public, KEY.public, revoked=revoked)) == ["key"]
    assert fields(Identity(ACCOUNT.public, KEY.public, revoked={KEY.public: issued - 1})) == [], "issued after that"
    stronger = claims.creds_file(claims.user_jwt(ADMINISTRATOR, KEY.public, ACCOUNT, account=ACCOUNT.public), KEY)
    assert fields(right, stronger) == ["pub.allow", "sub.allow"]
    scoped = Identity(ACCOUNT.public, issuer=ACCOUNT.public)
    assert fields(scoped) == ["pub.allow", "sub.allow"], "the signing key has the permissions, and no JWT"


@pytest.mark.parametrize(
    ("expires_s", "usual", "drifted"), [(60, False, True), (60, True, False), (-60, True, True), (-60, False, True)]
)
def test_an_end_is_drift_if_none_is_declared_or_if_it_has_passed(expires_s: int, usual: bool, drifted: bool) -> None:
    token = claims.user_jwt(CLIENT, KEY.public, ACCOUNT, account=ACCOUNT.public, expires_s=expires_s)
    found = fields(Identity(ACCOUNT.public, KEY.public, expires=usual), claims.creds_file(token, KEY))
    assert found == (["expires"] if drifted else [])
