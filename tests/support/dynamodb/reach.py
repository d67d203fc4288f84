"""AWS's hosts, a proxy on the way to them, and the clients that call them: botocore's and ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import HttpError
from service.runtime.errors import ServiceError
from tests.service.dynamodb.test_http import relay, serving

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"TableNames":[]}'
REGION = "eu-west-1"
HOSTS = (
    "127.0.0.1",
    "*.amazonaws.com",
    "*.eu-west-1.amazonaws.com",
    "*.ddb.eu-west-1.amazonaws.com",
    "*.eu-west-1.api.aws",
    "*.ddb.eu-west-1.api.aws",
    "*.eu-central-1.amazonaws.com",
    "*.us-east-1.amazonaws.com",
    "*.us-gov-west-1.amazonaws.com",
    "*.example.com",
)


@dataclass
class Wire:
    """The requests to the proxy, and to DynamoDB through it."""

    http: str
    https: str
    proxy: str
    authority: str
    other_authority: str
    config: Path
    seen: list[str] = field(default_factory=list)

    def filled(self, text: str) -> str:
        for name in ("http", "https", "proxy", "authority", "other_authority"):
            text = text.replace(f"<{name}>", getattr(self, name))
        return text


def told(request: bytes) -> str:
    """Return the parts of a request that say where it goes."""
    lines = request.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    if lines[0].startswith("CONNECT "):  # older versions of http.client send no Host here
        return f"{lines[0].split(' ')[1]} | {headers.get('proxy-authorization', '')}"
    scope = headers.get("authorization", "").partition("Credential=")[2].split(",")[0].split("/")[2:]
    return " | ".join([lines[0], headers.get("host", ""), *scope, headers.get("proxy-authorization", "")])


@asynccontextmanager
async def wired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """Start the servers, with an AWS configuration that has only credentials."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower().endswith("_proxy") or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "other.pem").write_bytes(other.cert_pem.bytes())
    seen: list[str] = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(told(request))
        writer.write(ANSWER)

    async def proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(told(head))
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await relay(int(https.rpartition(":")[2]), 0, reader, writer)
            else:
                writer.write(ANSWER)
        writer.close()

    async with serving(answer) as (_, http), serving(answer, context) as (_, https):
        proxy = await asyncio.start_server(proxied, "127.0.0.1", 0)
        made = Wire(
            http,
            https,
            f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}",
            str(tmp_path / "ca.pem"),
            str(tmp_path / "other.pem"),
            tmp_path / "config",
            seen,
        )
        made.config.write_text("")
        for name, value in {
            "AWS_CONFIG_FILE": str(made.config),
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        yield made
        proxy.close()


def botocores() -> str:
    """Return the result of its call, or the error."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
    try:
        client: Any = Session().create_client("dynamodb", config=config)
        client.list_tables()
    except (BotoCoreError, ClientError, ValueError, OSError) as error:
        return f"fails: {type(error).__name__}"
    return "answered"


def ours() -> str:
    async def call() -> str:
        api = DynamoDB.configured(5.0)
        try:
            assert await api.call("ListTables", {}) == {"TableNames": []}
        finally:
            api.close()
        return "answered"

    try:
        return uvloop.run(call())  # the loop that the service runs on
    except (HttpError, ServiceError) as error:
        return f"fails: {error}"


@dataclass(frozen=True)
class Case:
    env: Mapping[str, str]
    profile: str = ""
    """Lines of the profile in AWS_CONFIG_FILE."""


def configure(wire: Wire, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.config.write_text(wire.filled(f"[default]\n{case.profile}\n"))
    for name, value in {"AWS_DEFAULT_REGION": REGION, **case.env}.items():
        if name == "AWS_DEFAULT_REGION" and not value:
            continue
        monkeypatch.setenv(name, wire.filled(value))
