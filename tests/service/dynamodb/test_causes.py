"""Why a table cannot be used is said to operators, with the remedy that fits; requesters get other words."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

import pytest
import trustme

from local.process import claim_port
from service.customer.store.rows import refusal
from service.dynamodb.errors import TableUnavailableError
from service.dynamodb.writer import Item, Timing, Writer
from service.runtime.errors import ServiceError
from tests.service.dynamodb.test_http import OK, serving, writes
from tests.support.dynamodb.table import open_table

Set = Callable[[str, str], None]
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@asynccontextmanager
async def untrusted(set_: Set) -> AsyncIterator[None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serving(writes(OK), context) as (_, url):
        set_("AWS_ENDPOINT_URL_DYNAMODB", url)
        yield


def certified(name: str = "127.0.0.1", starts: int = 2019, ends: int = 2100) -> Callable[[Set], object]:
    """A server whose certificate has a known authority, this name and these years."""

    @asynccontextmanager
    async def setup(set_: Set) -> AsyncIterator[None]:
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made = authority.issue_cert(name, not_before=datetime(starts, 1, 1), not_after=datetime(ends, 1, 1))  # noqa: DTZ001
        made.configure_cert(context)
        with authority.cert_pem.tempfile() as bundle:
            set_("AWS_CA_BUNDLE", bundle)
            async with serving(writes(OK), context) as (_, url):
                set_("AWS_ENDPOINT_URL_DYNAMODB", url)
                yield

    return setup


@asynccontextmanager
async def no_such_name(set_: Set) -> AsyncIterator[None]:
    set_("AWS_ENDPOINT_URL_DYNAMODB", "http://dynamodb.invalid")  # RFC 6761: there is none
    yield


@asynccontextmanager
async def refused(set_: Set) -> AsyncIterator[None]:
    set_("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{claim_port(0, '')}")
    yield


@asynccontextmanager
async def no_tls(set_: Set) -> AsyncIterator[None]:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    set_("AWS_ENDPOINT_URL_DYNAMODB", f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    yield
    listening.close()


@asynccontextmanager
async def silent(set_: Set) -> AsyncIterator[None]:
    async def never(_: bytes, __: asyncio.StreamWriter) -> None:
        """Says nothing."""

    async with serving(never) as (_, url):
        set_("AWS_ENDPOINT_URL_DYNAMODB", url)
        yield


@asynccontextmanager
async def not_http(set_: Set) -> AsyncIterator[None]:
    async with serving(writes(b"SSH-2.0-OpenSSH_9.2\r\n")) as (_, url):
        set_("AWS_ENDPOINT_URL_DYNAMODB", url)
        yield


def credentials(answering: bytes | None) -> Callable[[Set], object]:
    """A credential endpoint, as a task has it, that answers this; None: nothing is there."""

    @asynccontextmanager
    async def setup(set_: Set) -> AsyncIterator[None]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answering or b"")
            await writer.drain()
            writer.close()

        port = claim_port(0, "")
        listening = None
        if answering is not None:
            listening = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            set_(name, "")
        set_("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/")
        yield
        if listening:
            listening.close()

    return setup


def http(body: str, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


PARTS = f'{{"AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "{SECRET}"}}'
CAUSES = {
    "an untrusted certificate": (
        untrusted,
        r"the certificate of 127.0.0.1:\d+ is not trusted \(.*certificate.*\); give its authority in AWS_CA_BUNDLE",
    ),
    "an expired certificate": (
        certified(ends=2020),
        r"the certificate of 127.0.0.1:\d+ is not trusted \(.*expired\); renew it, or correct the clock here",
    ),
    "a certificate of the future": (
        certified(starts=2090),
        r"the certificate of 127.0.0.1:\d+ is not trusted \(.*not yet valid\); renew it, or correct the clock here",
    ),
    "another address's certificate": (
        certified("127.0.0.2"),
        r"the certificate of 127.0.0.1:\d+ is not trusted \(.*IP address mismatch.*\); correct AWS_ENDPOINT_URL",
    ),
    "another name's certificate": (
        certified("example.com"),
        r"the certificate of 127.0.0.1:\d+ is not trusted \(.*mismatch.*\); correct AWS_ENDPOINT_URL_DYNAMODB, or",
    ),
    "a name that does not resolve": (
        no_such_name,
        r"dynamodb.invalid does not resolve \(.+\); correct AWS_REGION or AWS_ENDPOINT_URL_DYNAMODB, or see the DNS",
    ),
    "a refused port": (refused, r"127.0.0.1:\d+ refuses connections; see what listens there, or correct AWS_REGION"),
    "a port without TLS": (no_tls, r"no connection to 127.0.0.1:\d+: .+; see that DynamoDB can be reached"),
    "a silent server": (silent, r"127.0.0.1:\d+ did not answer in time; see that DynamoDB can be reached from here"),
    "no HTTP": (not_http, r"the response of 127.0.0.1:\d+ is not HTTP: .+; see that DynamoDB can be reached"),
    "an ill credential endpoint": (
        credentials(http("the role is away", 500)),
        r"AWS credentials cannot be loaded \(.*the role is away.*\); see the task role, and what gives its credentials",
    ),
    "a credential endpoint of garbage": (
        credentials(http(f"<{SECRET}>")),
        r"AWS credentials cannot be loaded \(.*[pP]arse.*\); see the task role",
    ),
    "a credential endpoint of a part": (
        credentials(http(PARTS)),
        r"AWS credentials cannot be loaded \((KeyError|.*Error): .*\); see the task role",
    ),
    "a credential endpoint that is away": (
        credentials(None),
        r"AWS credentials cannot be loaded \(.+\); see the task role, and what gives its credentials",
    ),
}


@pytest.fixture(autouse=True)
def quick(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.RETRY_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")


@pytest.mark.parametrize(("setup", "line"), CAUSES.values(), ids=CAUSES)
async def test_the_cause_and_the_remedy_are_said(
    setup: Callable[[Set], object], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(setup(monkeypatch.setenv))  # type: ignore[arg-type]
        async with open_table("balances") as table:
            with pytest.raises(ServiceError, match=f"^table balances: {line}") as said:
                await table.check()
            assert table.problem == said.value.problem.removeprefix("table balances: ")
            outcome = await table.get("1")
        writer = Writer("events", "p", "s", "ARCHIVE_TABLE", timing=Timing(call_timeout_s=0.9, budget_s=0.1))
        writer.open()
        with pytest.raises(ServiceError, match=f"^table events: {line}") as of_writer:
            await writer.check()
        result = await writer.write([Item(("1", "1"), b'{"p":{"S":"1"},"s":{"S":"1"}}')])
        writer.close()
    assert result.problem == of_writer.value.problem.removeprefix("table events: ")
    assert isinstance(outcome, TableUnavailableError)
    for error in (said.value, of_writer.value):
        assert "\n" not in str(error)
        assert "MDENG" not in str(error)
    reply = refusal("1", outcome)
    assert reply.code == "503"
    assert reply.message in {
        "the database is not available; try again",
        "the database did not answer in time; try again",
    }, "no cause is a requester's matter"


async def test_what_stays_busy_is_said_to_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    body = '{"__type":"x#ThrottlingException","message":"Rate exceeded"}'
    async with serving(writes(http(body, 400))) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            with pytest.raises(ServiceError, match=r"the database is busy \(ThrottlingException\); see the table's"):
                await table.check()
            assert str(await table.get("1")) == "the database is busy"
