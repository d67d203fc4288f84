"""How DynamoDB is reached under an AWS configuration: botocore's client beside ours, to the same servers.

A proxy takes both to a TLS server that stands in for AWS's hosts, so that what each would connect to, verify and send
is seen on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from botocore.session import Session

from service.dynamodb.client import DynamoDB
from service.dynamodb.credentials import CredentialChain
from service.dynamodb.endpoint import endpoint, proxy_to
from tests.service.dynamodb.test_http import relay
from tests.support.dynamodb.reach import Case, Wire, botocores, configure, ours, wired


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    async with wired(tmp_path, monkeypatch) as made:
        yield made


BUNDLE = {"AWS_CA_BUNDLE": "<authority>"}
THROUGH = {**BUNDLE, "HTTPS_PROXY": "http://<proxy>"}
ACCOUNT = {**THROUGH, "AWS_ACCOUNT_ID": "123456789012"}
SAME = {
    "nothing set": Case(THROUGH),
    "AWS_USE_FIPS_ENDPOINT": Case({**THROUGH, "AWS_USE_FIPS_ENDPOINT": "true"}),
    "AWS_USE_DUALSTACK_ENDPOINT": Case({**THROUGH, "AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    "use_fips_endpoint": Case(THROUGH, "use_fips_endpoint = true"),
    "use_dualstack_endpoint": Case(THROUGH, "use_dualstack_endpoint = true"),
    "AWS_ACCOUNT_ID": Case(ACCOUNT),
    "account id, preferred": Case({**ACCOUNT, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "preferred"}),
    "account id, required": Case({**ACCOUNT, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"}),
    "account id, disabled": Case({**ACCOUNT, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled"}),
    "account id, dual stack": Case({**ACCOUNT, "AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    "account id, FIPS": Case({**ACCOUNT, "AWS_USE_FIPS_ENDPOINT": "true"}),
    "account id, own endpoint": Case({**ACCOUNT, "AWS_ENDPOINT_URL": "https://vpce-1.example.com"}),
    "account_id_endpoint_mode": Case(ACCOUNT, "account_id_endpoint_mode = disabled"),
    "no account id, required": Case({**THROUGH, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"}),
    "no mode": Case({**THROUGH, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "perhaps"}),
    "no account id at all": Case({**THROUGH, "AWS_ACCOUNT_ID": "not a host/"}),
    "AWS_ENDPOINT_URL": Case({"AWS_ENDPOINT_URL": "<http>"}),
    "AWS_ENDPOINT_URL_DYNAMODB": Case(
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_DYNAMODB": "<http>"}
    ),
    "endpoint_url": Case({}, "endpoint_url = <http>"),
    "services section": Case({}, "services = local\n[services local]\ndynamodb =\n  endpoint_url = <http>"),
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": Case(
        {**THROUGH, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    ),
    "ignore_configured_endpoint_urls": Case(
        THROUGH, "endpoint_url = http://127.0.0.1:1\nignore_configured_endpoint_urls = true"
    ),
    "no endpoint": Case({"AWS_ENDPOINT_URL": "junk"}),
    "AWS_DEFAULT_REGION": Case({**THROUGH, "AWS_DEFAULT_REGION": "eu-central-1"}),
    "region": Case({**THROUGH, "AWS_DEFAULT_REGION": ""}, "region = eu-central-1"),
    "a region called fips": Case({**THROUGH, "AWS_DEFAULT_REGION": "fips-us-east-1"}),
    "a region with fips": Case({**THROUGH, "AWS_DEFAULT_REGION": "us-gov-west-1-fips"}),
    "local": Case({"AWS_DEFAULT_REGION": "local", "HTTP_PROXY": "http://<proxy>"}),
    "no region": Case({**THROUGH, "AWS_DEFAULT_REGION": ""}),
    "AWS_PROFILE": Case({**THROUGH, "AWS_PROFILE": "other"}, "[profile other]\nuse_dualstack_endpoint = true"),
    "no such profile": Case({**THROUGH, "AWS_PROFILE": "nobody"}),
    "AWS_CA_BUNDLE": Case({"AWS_ENDPOINT_URL": "<https>", "AWS_CA_BUNDLE": "<authority>"}),
    "ca_bundle": Case({"AWS_ENDPOINT_URL": "<https>"}, "ca_bundle = <authority>"),
    "REQUESTS_CA_BUNDLE": Case({"AWS_ENDPOINT_URL": "<https>", "REQUESTS_CA_BUNDLE": "<authority>"}),
    "AWS_CA_BUNDLE before the others": Case(
        {"AWS_ENDPOINT_URL": "<https>", "AWS_CA_BUNDLE": "<authority>", "REQUESTS_CA_BUNDLE": "<other_authority>"},
        "ca_bundle = <other_authority>",
    ),
    "ca_bundle before REQUESTS_CA_BUNDLE": Case(
        {"AWS_ENDPOINT_URL": "<https>", "REQUESTS_CA_BUNDLE": "<authority>"}, "ca_bundle = <other_authority>"
    ),
    "another authority": Case({"AWS_ENDPOINT_URL": "<https>", "AWS_CA_BUNDLE": "<other_authority>"}),
    "no authority": Case({"AWS_ENDPOINT_URL": "<https>"}),
    "no such bundle": Case({"AWS_ENDPOINT_URL": "<https>", "AWS_CA_BUNDLE": "/nowhere"}),
    "an empty bundle": Case({"AWS_ENDPOINT_URL": "<https>", "AWS_CA_BUNDLE": ""}),
    "an empty bundle of requests": Case({"AWS_ENDPOINT_URL": "<https>", "REQUESTS_CA_BUNDLE": ""}),
    "no such bundle, for http": Case({"AWS_ENDPOINT_URL": "<http>", "AWS_CA_BUNDLE": "/nowhere"}),
    "HTTP_PROXY": Case({"AWS_ENDPOINT_URL": "http://dynamodb.example.com:8000/path", "HTTP_PROXY": "http://<proxy>"}),
    "http_proxy": Case({"AWS_ENDPOINT_URL": "http://dynamodb.example.com", "http_proxy": "http://<proxy>"}),
    "HTTP_PROXY, no scheme": Case({"AWS_ENDPOINT_URL": "http://dynamodb.example.com", "HTTP_PROXY": "<proxy>"}),
    "HTTP_PROXY with a user": Case({"AWS_ENDPOINT_URL": "http://a.example.com", "HTTP_PROXY": "http://u:p%40@<proxy>"}),
    "HTTPS_PROXY with a user": Case({**THROUGH, "HTTPS_PROXY": "http://u:p%40@<proxy>"}),
    "HTTPS_PROXY and a port": Case({**THROUGH, "AWS_ENDPOINT_URL": "https://a.example.com:8443"}),
    "HTTP_PROXY for https": Case(
        {"AWS_ENDPOINT_URL": "<https>", "HTTP_PROXY": "http://<proxy>", "AWS_CA_BUNDLE": "<authority>"}
    ),
    "HTTPS_PROXY for http": Case({"AWS_ENDPOINT_URL": "<http>", "HTTPS_PROXY": "http://<proxy>"}),
    "ALL_PROXY": Case({"AWS_ENDPOINT_URL": "<http>", "ALL_PROXY": "http://<proxy>"}),
    "NO_PROXY": Case({"AWS_ENDPOINT_URL": "<http>", "HTTP_PROXY": "http://<proxy>", "NO_PROXY": "127.0.0.1"}),
    "no_proxy": Case({"AWS_ENDPOINT_URL": "<http>", "HTTP_PROXY": "http://<proxy>", "no_proxy": "*"}),
    "NO_PROXY for others": Case({**THROUGH, "NO_PROXY": "example.com,s3.amazonaws.com"}),
    "NO_PROXY for the account's host": Case({**ACCOUNT, "NO_PROXY": ".ddb.eu-west-1.amazonaws.com"}),
    "NO_PROXY for the region's host": Case({**ACCOUNT, "NO_PROXY": "dynamodb.eu-west-1.amazonaws.com"}),
    "a proxy with an empty label": Case({**THROUGH, "HTTPS_PROXY": "http://my..proxy:3128"}),
    "a proxy that is away": Case({**THROUGH, "HTTPS_PROXY": "http://127.0.0.1:1"}),
    "proxies_config": Case(
        {**THROUGH}, "proxies_config =\n  proxy_ca_bundle = /nowhere\n  proxy_use_forwarding_for_https = true"
    ),
    "settings of calls": Case(
        {
            **THROUGH,
            "AWS_RETRY_MODE": "adaptive",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_DEFAULTS_MODE": "standard",
            "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
            "AWS_DISABLE_REQUEST_COMPRESSION": "true",
            "AWS_AUTH_SCHEME_PREFERENCE": "sigv4a",
            "AWS_SIGV4A_SIGNING_REGION_SET": "*",
            "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
        },
        "tcp_keepalive = true\ns3 =\n  use_dualstack_endpoint = true",
    ),
    "AWS_ENDPOINT_DISCOVERY_ENABLED=auto": Case({**THROUGH, "AWS_ENDPOINT_DISCOVERY_ENABLED": "auto"}),
}


@pytest.mark.parametrize("case", SAME.values(), ids=SAME)
async def test_dynamodb_is_reached_as_botocore_reaches_it(
    wire: Wire, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(wire, case, monkeypatch)
    outcome = (await asyncio.to_thread(botocores)).partition(":")[0]
    asked = wire.seen[:]
    wire.seen.clear()
    by_us = await asyncio.to_thread(ours)
    assert by_us.partition(":")[0] == outcome, by_us
    if outcome == "answered":
        assert wire.seen == asked
        assert asked, "the servers saw it"
    else:
        assert "\n" not in by_us


def test_the_cases_are_every_setting_of_botocores() -> None:
    """A botocore that reads a new one fails here, until it is a case or is known to be of no matter."""
    session = Session()
    settings = set(session.session_var_map)
    of_the_cases = " ".join([str(case) for case in SAME.values()] + REFUSED_TEXT).lower()
    of_credentials = {
        "config_file", "credentials_file", "metadata_service_timeout", "metadata_service_num_attempts",
        "ec2_metadata_service_endpoint", "ec2_metadata_service_endpoint_mode", "ec2_metadata_v1_disabled",
        "imds_use_ipv6",
    }  # fmt: skip
    of_no_matter = {
        "api_versions", "data_path", "parameter_validation", "csm_enabled", "csm_host", "csm_port", "csm_client_id",
        "user_agent_appid", "request_min_compression_size_bytes", "request_checksum_calculation",
        "response_checksum_validation", "s3_disable_express_session_auth",
    }  # fmt: skip
    left = settings - of_credentials - of_no_matter
    assert {name for name in left if name not in of_the_cases} == set()


REFUSED = {
    "endpoint discovery": (
        Case({**THROUGH, "AWS_ENDPOINT_DISCOVERY_ENABLED": "true"}),
        "AWS_ENDPOINT_DISCOVERY_ENABLED is true, which is not supported; unset it",
    ),
    "endpoint_discovery_enabled": (
        Case(THROUGH, "endpoint_discovery_enabled = true"),
        "AWS_ENDPOINT_DISCOVERY_ENABLED",
    ),
    "a proxy with TLS": (
        Case({**THROUGH, "HTTPS_PROXY": "https://user:SEKRET@<proxy>"}),
        "HTTPS_PROXY is a https:// proxy, which is not supported; give an http:// one, or name",
    ),
    "a proxy that is no address": (
        Case({**THROUGH, "HTTPS_PROXY": "http://u:SEKRET@h:x"}),
        "HTTPS_PROXY is not an address",
    ),
    "a proxy of another kind": (
        Case({**THROUGH, "HTTPS_PROXY": "socks5://u:SEKRET@<proxy>"}),
        "HTTPS_PROXY is a socks5:// proxy, which is not supported; give an http:// one, or name",
    ),
    "a proxy with port 0": (Case({**THROUGH, "HTTPS_PROXY": "http://127.0.0.1:0"}), "HTTPS_PROXY is not an address"),
    "another proxy": (Case({"AWS_ENDPOINT_URL": "<http>", "HTTP_PROXY": "http://"}), "HTTP_PROXY is not an address"),
    "no bundle": (
        Case({"AWS_ENDPOINT_URL": "<https>", "AWS_CA_BUNDLE": "/nowhere"}),
        "CA bundle /nowhere: No such file or directory; correct AWS_CA_BUNDLE",
    ),
    "account id, required": (
        Case({**THROUGH, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"}),
        "AWS_ACCOUNT_ID_ENDPOINT_MODE is required, and the credentials name no account; set AWS_ACCOUNT_ID",
    ),
}
REFUSED_TEXT = [str(case) for case, _ in REFUSED.values()]


@pytest.mark.parametrize(("case", "line"), REFUSED.values(), ids=REFUSED)
async def test_what_is_not_supported_is_refused_in_one_line(
    wire: Wire, case: Case, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(wire, case, monkeypatch)
    said = await asyncio.to_thread(ours)
    assert line in said
    assert "\n" not in said
    assert "SEKRET" not in said
    assert not wire.seen


async def test_aws_region_is_before_botocores_own(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other SDK reads it, and ECS sets it."""
    configure(wire, Case({**THROUGH, "AWS_REGION": "eu-central-1"}), monkeypatch)
    assert await asyncio.to_thread(ours) == "answered"
    assert wire.seen[0].startswith("dynamodb.eu-central-1.amazonaws.com:443 |")
    assert "| eu-central-1 |" in wire.seen[1]


@asynccontextmanager
async def proxy_that(answer: bytes) -> AsyncIterator[str]:
    """Its address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


REFUSES = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("url", "variable", "answer", "line"),
    [
        ("", "HTTPS_PROXY", REFUSES, "<proxy> refuses a tunnel to dynamodb.eu-west-1.amazonaws.com:443 (HTTP/1.1 407"),
        ("", "HTTPS_PROXY", b"", "<proxy> refuses a tunnel to dynamodb.eu-west-1.amazonaws.com:443 (it hung up"),
        ("http://a.example.com", "HTTP_PROXY", REFUSES, "no way to a.example.com through <proxy> (HTTP 407)"),
        ("http://a.example.com", "HTTP_PROXY", b"", "the connection to a.example.com through <proxy> was lost"),
    ],
    ids=["https, 407", "https, hangs up", "http, 407", "http, hangs up"],
)
async def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, url: str, variable: str, answer: bytes, line: str
) -> None:
    async with proxy_that(answer) as address:
        configure(
            wire, Case({variable: f"http://user:SEKRET@{address}", **({"AWS_ENDPOINT_URL": url} if url else {})}),
            monkeypatch,
        )  # fmt: skip
        said = await asyncio.to_thread(ours)
        assert line.replace("<proxy>", f"proxy {address}") in said
        assert "SEKRET" not in said + repr(endpoint()) + repr(proxy_to("https://a"))


async def test_a_proxys_answer_may_have_bare_line_feeds(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://www.rfc-editor.org/rfc/rfc9112#section-2.2-3"""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\nVia: x\n\n")
        await relay(int(wire.https.rpartition(":")[2]), 0, reader, writer)

    listening = await asyncio.start_server(connect, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    configure(wire, Case({**BUNDLE, "HTTPS_PROXY": address}), monkeypatch)
    assert await asyncio.to_thread(ours) == "answered"
    listening.close()


async def test_credentials_of_another_account_have_its_endpoint(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(wire, Case({**ACCOUNT, "AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"}), monkeypatch)
    api = DynamoDB.configured(5.0)
    for account in ("123456789012", "210987654321"):
        monkeypatch.setenv("AWS_ACCOUNT_ID", account)
        api._chain = CredentialChain()
        for _ in range(2):
            await api.call("ListTables", {})
    api.close()
    connected = [line.split(" ")[0] for line in wire.seen if "POST" not in line]
    assert connected == [f"{account}.ddb.eu-west-1.amazonaws.com:443" for account in ("123456789012", "210987654321")]


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes no connection, and refuses none: its queue is full."""
    with socket.socket() as busy, contextlib.ExitStack() as waiting:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(3):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(busy.getsockname())
        yield busy.getsockname()[1]


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
async def test_a_first_address_that_is_a_black_hole_does_not_stop_a_call(
    wire: Wire, black_hole: int, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    configure(wire, Case({"AWS_ENDPOINT_URL": f"http://localhost:{black_hole}"}), monkeypatch)

    async def two(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        ports = (black_hole, int(wire.http.rpartition(":")[2])) if host == "localhost" else (port,)
        return [(2, 1, 6, "", ("127.0.0.1", port)) for port in ports]

    for loop in (uvloop.Loop, asyncio.SelectorEventLoop):
        monkeypatch.setattr(loop, "getaddrinfo", two)

    async def call() -> None:
        api = DynamoDB.configured(5.0)
        await api.call("ListTables", {})
        api.close()

    await asyncio.to_thread(run, call())
    assert len(wire.seen) == 1
