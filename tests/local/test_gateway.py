"""The gateway over HTTP, in front of the real server and a real task."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from local.gateway import gateway
from local.process import claim_port
from service.runtime.connection import roundtrip
from tests.support.world import World, eventually

TOKEN = "nhg_thetokenofclient"
PATH = "/v1/nats/subjects/"
ERROR = "x-nats-api-gateway-error"


class Http:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(
        self, method: str, subject: str, body: bytes | io.BytesIO = b"", **headers: str
    ) -> tuple[int, bytes, Any]:
        given = {"authorization": TOKEN, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.request(method, self.url + PATH + subject, data=body, headers=given) as response:
            return response.status, await response.read(), response.headers


@asynccontextmanager
async def http_gateway(world: World, user: str = "client") -> AsyncIterator[Http]:
    async with (
        gateway(0, world.nats_url, {TOKEN: world.creds(user)}) as port,
        aiohttp.ClientSession() as session,
    ):
        yield Http(session, f"http://127.0.0.1:{port}")


async def test_request_and_reply(world: World) -> None:
    async with world.task(), http_gateway(world) as http:
        balance = world.rows()["678"]
        for accept in ("text/plain", "*/*"):
            status, body, _ = await http.call("POST", "customer.balance", b'{"client_id":"678"}', accept=accept)
            assert (status, body) == (200, b'{"balance":%d}' % balance)
        status, body, _ = await http.call("POST", "customer.balance", b'{"client_id":"678"}', accept="application/json")
        message = orjson.loads(body)
        assert message.keys() == {"subject", "reply", "header", "data"}
        assert base64.b64decode(message["data"]) == b'{"balance":%d}' % balance
        bearer = await http.call("POST", "customer.balance", b'{"client_id":"678"}', authorization=f"Bearer {TOKEN}")
        assert bearer[0] == 200


async def test_the_originals_curl_line(world: World) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    async with world.task(), http_gateway(world) as http:
        done = await asyncio.to_thread(
            subprocess.run,
            f'{curl} -sS -X POST "{http.url}/v1/nats/subjects/customer.balance" '
            f'-H "accept: text/plain" -H "authorization: {TOKEN}" -H "content-type: application/json" '
            """-d '{"client_id":"678"}' """,
            shell=True,
            capture_output=True,
            check=True,
        )
        assert done.stdout == b'{"balance":%d}' % world.rows()["678"]


async def test_a_services_error_is_its_reply(world: World) -> None:
    async with world.task(), http_gateway(world) as http:
        status, body, headers = await http.call("POST", "customer.balance", b"zz")
        assert (status, orjson.loads(body)) == (200, {"error": "the request is not JSON"})
        assert headers["NatsH-Nats-Service-Error-Code"] == "403"
        _, body, _ = await http.call("POST", "customer.balance", b"zz", accept="application/json")
        assert orjson.loads(body)["header"]["Nats-Service-Error"] == ["BAD_REQUEST"]


async def test_headers_travel(world: World) -> None:
    async with http_gateway(world) as http, world.administrator() as admin:

        async def echo(message: Any) -> None:
            await message._client.publish(message.reply, message.data, headers=message.headers)

        await admin._nc.subscribe("customer.balance", cb=echo)
        await roundtrip(admin._nc)
        status, body, headers = await http.call("POST", "customer.balance", b"x", NatsH_Hello="Hi")
        assert (status, body, headers["NatsH-Hello"]) == (200, b"x", "Hi")


async def test_publish(world: World) -> None:
    async with http_gateway(world) as http, world.administrator() as admin:
        heard = await admin._nc.subscribe("customer.balance")
        await roundtrip(admin._nc)
        status, _, _ = await http.call("PUT", "customer.balance?reply=_INBOX.x", b"hello", NatsH_Hello="Hi")
        assert status == 200
        message = await heard.next_msg(timeout=2)
        assert (message.data, message.reply, message.headers) == (b"hello", "_INBOX.x", {"Hello": "Hi"})


@pytest.mark.parametrize(
    ("method", "subject", "headers", "status", "says"),
    [
        ("POST", "customer.balance", {"authorization": ""}, 401, "no token"),
        ("POST", "customer.balance", {"authorization": "nhg_other"}, 401, "unknown token"),
        ("POST", "customer.balance", {"authorization": "Bearer "}, 401, "no token"),
        ("POST", "customer.balance.678", {}, 403, "not permitted to publish to customer.balance.678"),
        ("PUT", "customer.balance.678", {}, 403, "not permitted"),
        ("PUT", "$KV.config.seed", {}, 403, "not permitted"),
        ("POST", "customer.balance", {}, 503, "no responders"),
        ("POST", "customer.*", {}, 400, "not a subject"),
        ("PUT", "customer.>", {}, 400, "not a subject"),
        ("POST", "customer..balance", {}, 400, "not a subject"),
        ("POST", "customer.balance%20x", {}, 400, "not a subject"),
        ("POST", "customer.balance?timeout=soon", {}, 400, "timeout must be milliseconds"),
        ("POST", "customer.balance?timeout=0", {}, 400, "timeout must be milliseconds"),
    ],
)
async def test_errors_are_in_the_header(
    world: World, method: str, subject: str, headers: dict[str, str], status: int, says: str
) -> None:
    async with http_gateway(world) as http:
        got, body, answered = await http.call(method, subject, b"{}", **headers)
        assert (got, body) == (status, b"")
        assert says in answered[ERROR]
        assert "nhg_" not in answered[ERROR]


async def test_no_reply_in_time(world: World) -> None:
    async with http_gateway(world) as http, world.administrator() as admin:
        await admin._nc.subscribe("customer.balance")
        await roundtrip(admin._nc)
        status, _, headers = await http.call("POST", "customer.balance?timeout=50", b"{}")
        assert (status, headers[ERROR]) == (504, "no reply within 50 ms")


async def test_a_payload_too_large(world: World) -> None:
    async with http_gateway(world) as http:
        for size in (1024 * 1024 + 1, 3 * 1024 * 1024):
            status, _, headers = await http.call("POST", "customer.balance", io.BytesIO(b"x" * size))
            assert (status, headers[ERROR]) == (413, "payload too large")


async def test_no_server(world: World) -> None:
    async with (
        gateway(0, f"nats://127.0.0.1:{claim_port(0, '')}", {TOKEN: world.creds("client")}) as port,
        aiohttp.ClientSession() as session,
    ):
        status, _, headers = await Http(session, f"http://127.0.0.1:{port}").call("POST", "customer.balance", b"{}")
        assert status == 503
        assert "NATS cannot be reached" in headers[ERROR]


async def test_each_token_acts_as_its_own_user(world: World) -> None:
    async with (
        gateway(0, world.nats_url, {TOKEN: world.creds("client"), "other": world.creds("service")}) as port,
        aiohttp.ClientSession() as session,
    ):
        http = Http(session, f"http://127.0.0.1:{port}")
        assert (await http.call("PUT", "customer.balance.1", b"{}"))[0] == 403
        assert (await http.call("PUT", "customer.balance.1", b"{}", authorization="other"))[0] == 200

        async def stored() -> bool:
            return await world.last_sequence() == 1

        await eventually(stored)
