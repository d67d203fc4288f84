"""Contexts of the nats CLI, and whom the options mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark import target as targets
from benchmark.errors import BenchmarkError
from benchmark.target import gateway_target, nats_target
from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import CLIENT
from control_plane.files import Files
from service.nats import creds

Context = Callable[..., None]
KEY = Key.account()
CREDS = claims.mint_creds(CLIENT, KEY, account=KEY.public)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(name: str, **values: Any) -> None:
        folder = tmp_path / "nats" / "context"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(values))

    return write


def test_a_context_by_name(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.creds").write_text(CREDS)
    monkeypatch.setenv("CREDS_FOLDER", str(tmp_path))
    context("prod", url="tls://a:4222, tls://b:4222", creds="$CREDS_FOLDER/a.creds", description="x", token="")
    target = nats_target(None, None, "prod")
    assert (target.servers, target.creds, target.token) == (["tls://a:4222", "tls://b:4222"], CREDS, None)
    assert creds.parse(CREDS).seed not in repr(target)


def test_what_else_a_context_may_say(context: Context, tmp_path: Path) -> None:
    (tmp_path / "user.nk").write_text("SUSEED\n")
    context("own", nkey=str(tmp_path / "user.nk"), inbox_prefix="_MY", ca="/ca.pem", cert="/c.pem", key="/k.pem")
    target = nats_target(None, None, "own")
    assert (target.nkey_seed, target.inbox_prefix, target.ca_file, target.key_file) == (
        "SUSEED", "_MY", "/ca.pem", "/k.pem",
    )  # fmt: skip
    context("plain", user="u", password="p")
    target = nats_target(None, None, "plain")
    assert (target.servers, target.user, target.password) == (["nats://127.0.0.1:4222"], "u", "p")


def test_contexts_that_cannot_be_used(context: Context) -> None:
    context("odd", url="nats://a", nsc="nsc://o/a/u")
    with pytest.raises(BenchmarkError, match="context odd uses nsc"):
        nats_target(None, None, "odd")
    with pytest.raises(BenchmarkError, match=r"no context other \(it has: odd\)"):
        nats_target(None, None, "other")
    with pytest.raises(BenchmarkError, match="leave out --server"):
        nats_target("nats://a", None, "odd")
    context("lost", creds="/nowhere/a.creds")
    with pytest.raises(BenchmarkError, match=r"/nowhere/a\.creds cannot be read"):
        nats_target(None, None, "lost")


def test_a_gateway_needs_an_address_and_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchmarkError, match="is not an HTTP address"):
        gateway_target("127.0.0.1:8222", None)
    monkeypatch.setenv("NATS_GATEWAY_TOKEN", "nhg_env")
    assert gateway_target("http://a", None).token == "nhg_env"
    (tmp_path / "token").write_text("nhg_file\n")
    target = gateway_target("http://a", tmp_path / "token")
    assert target.token == "nhg_file"
    assert "nhg_file" not in repr(target)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.8, 0.99])
def test_credentials_that_were_cut_off(part: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.creds"
    path.write_text(CREDS[: round(part * (CREDS.index("BEGIN USER NKEY SEED") + 60))])
    with pytest.raises(BenchmarkError, match=r"cut\.creds is not a complete \.creds file"):
        nats_target("nats://a", path, None)


def test_a_server_alone_is_asked_with_the_default_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path)
    monkeypatch.setattr(targets, "LOCAL_FILES", files)
    assert nats_target("nats://a", None, None).creds is None
    files.write_creds("client", CREDS)
    assert nats_target("nats://a", None, None).creds == CREDS
