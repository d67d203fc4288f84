"""Find the server to load: by URL and credentials, a context of the nats CLI, an HTTP gateway, or `make up`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmark.errors import BenchmarkError
from benchmark.load.job import GatewayTarget, NatsTarget
from control_plane.auth.creds import Creds
from control_plane.desired import CLIENT, GATEWAY
from control_plane.files import Files
from local.state import DEFAULT
from local.system import Ports

LOCAL_SERVER: Final = f"nats://127.0.0.1:{Ports.nats}"
LOCAL_FILES: Final = Files(DEFAULT / "creds")
TOKEN_VARIABLE: Final = "NATS_GATEWAY_TOKEN"  # noqa: S105  its name
_SUPPORTED: Final = {"url", "creds", "nkey", "user", "password", "token", "inbox_prefix", "ca", "cert", "key"}
_HARMLESS: Final = {"description", "color_scheme", "jetstream_domain", "jetstream_api_prefix", "jetstream_event_prefix"}


def nats_target(server: str | None, creds: Path | None, context: str | None, *, user: str = CLIENT.name) -> NatsTarget:
    """Return the target that the options name; the default is the local system, as `user`.

    Raises `BenchmarkError` if a file is missing or the options contradict each other.
    """
    if context:
        if server or creds:
            raise BenchmarkError("a context has its own server and credentials; leave out --server and --creds")
        return from_context(context)
    text = _creds(creds) if creds else LOCAL_FILES.creds(user)
    if server is None and text is None:
        raise BenchmarkError("there is no local system; start it with `make up`, or give --server, --creds")
    servers = [name.strip() for name in (server or LOCAL_SERVER).split(",")]
    return NatsTarget(servers=servers, creds=text)


def gateway_target(url: str, token_file: Path | None, *, user: str = GATEWAY.name) -> GatewayTarget:
    """Return the gateway's target. Raises `BenchmarkError` if there is no token."""
    if not url.startswith(("http://", "https://")):
        raise BenchmarkError(f"--gateway {url} is not an HTTP address")
    if token_file:
        token: str | None = _text(token_file).strip()
    else:
        token = os.environ.get(TOKEN_VARIABLE) or LOCAL_FILES.token(user)
    if not token:
        raise BenchmarkError(f"no gateway token; give --token-file, or set {TOKEN_VARIABLE}")
    return GatewayTarget(url=url, token=token)


def from_context(name: str) -> NatsTarget:
    """Read a context of the nats CLI: https://docs.nats.io/using-nats/nats-tools/nats_cli#configuration-contexts.

    Raises `BenchmarkError` if no context has that name, or it has a setting that the benchmark does not support.
    """
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nats" / "context"
    path = folder / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.json"))) or "none"
        raise BenchmarkError(f"the nats CLI has no context {name} (it has: {known})")
    try:
        context: Mapping[str, Any] = json.loads(path.read_text())
    except ValueError:
        raise BenchmarkError(f"{path} is not JSON; recreate the context with `nats context add {name}`") from None
    given = {key: value for key, value in context.items() if value}
    strange = sorted(given.keys() - _SUPPORTED - _HARMLESS)
    if strange:
        raise BenchmarkError(
            f"context {name} uses {', '.join(strange)}, which the benchmark cannot; give --server, --creds"
        )

    def expanded(key: str) -> Path | None:
        return Path(os.path.expandvars(given[key])).expanduser() if key in given else None

    creds, nkey = expanded("creds"), expanded("nkey")
    return NatsTarget(
        servers=[server.strip() for server in given.get("url", "nats://127.0.0.1:4222").split(",")],
        creds=_creds(creds) if creds else None,
        nkey_seed=_text(nkey).strip() if nkey else None,
        user=given.get("user"),
        password=given.get("password"),
        token=given.get("token"),
        inbox_prefix=given.get("inbox_prefix", "_INBOX"),
        ca_file=_maybe(expanded("ca")),
        cert_file=_maybe(expanded("cert")),
        key_file=_maybe(expanded("key")),
    )


def _creds(path: Path) -> str:
    try:
        return Creds.parse(_text(path)).text
    except ValueError as error:
        raise BenchmarkError(f"{path} is not a complete .creds file ({error}); write it again") from None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise BenchmarkError(f"{path} cannot be read ({reason})") from None


def _maybe(path: Path | None) -> str | None:
    return None if path is None else str(path)
