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
from nats.aio.msg import Msg

from local.gateway.server import gateway
from local.process import claim_port
from service.nats.connection import roundtrip
from tests.support.own_servers import own_server
from tests.support.world import Servers, World, eventually, make_world

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


@pytest.fixture(scope="module")
async def served(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A world with a task that is there for every test."""
    folder = tmp_path_factory.mktemp("gateway")
    async with make_world(servers, folder) as world, world.task(SEED_ROWS="678"):
        yield world


async def test_request_and_reply(served: World) -> None:
    async with http_gateway(served) as http:
        balance = served.rows()["678"]
        for accept in ("text/plain", "*/*"):
            status, body, _ = await http.call("POST", "customer.balance", b'{"client_id":"678"}', accept=accept)
            assert (status, body) == (200, b'{"balance":%d}' % balance)
        status, body, _ = await http.call("POST", "customer.balance", b'{"client_id":"678"}', accept="application/json")
        message = orjson.loads(body)
        assert message.keys() == {"subject", "reply", "header", "data"}
        assert base64.b64decode(message["data"]) == b'{"balance":%d}' % balance
        bearer = await http.call("POST", "customer.balance", b'{"client_id":"678"}', authorization=f"Bearer {TOKEN}")
        assert bearer[0] == 200


async def test_a_page_of_another_origin_may_call(served: World) -> None:
    async with http_gateway(served) as http:
        asks = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,natsh-a"}  # fmt: skip
        url = f"{http.url}{PATH}customer.balance"
        async with http.session.options(url, headers=asks) as preflight:
            assert preflight.status == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == "*"
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
            assert preflight.headers["Access-Control-Allow-Headers"] == "authorization,content-type,natsh-a"
        for token, status in ((TOKEN, 200), ("nhg_other", 401)):
            given = await http.call("POST", "customer.balance", b'{"client_id":"678"}', authorization=token)
            assert given[0] == status
            assert given[2]["Access-Control-Allow-Origin"] == "*", "an error can be read by the page too"
            assert given[2]["Access-Control-Expose-Headers"] == "*"


async def test_the_originals_curl_line(served: World) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    async with http_gateway(served) as http:
        done = await asyncio.to_thread(
            subprocess.run,
            f'{curl} -sS -X POST "{http.url}/v1/nats/subjects/customer.balance" '
            f'-H "accept: text/plain" -H "authorization: {TOKEN}" -H "content-type: application/json" '
            """-d '{"client_id":"678"}' """,
            shell=True,
            capture_output=True,
            check=True,
        )
        assert done.stdout == b'{"balance":%d}' % served.rows()["678"]


async def test_a_services_error_is_its_reply(served: World) -> None:
    async with http_gateway(served) as http:
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
        message = await heard.next_msg(timeout=10)
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


async def test_refused_publications_stop_nobody(served: World) -> None:
    """Each ends in a round trip. Cancelled, its PONG ended the connection's reader, and refusals became 200."""
    async with http_gateway(served) as http:
        right = b'{"balance":%d}' % served.rows()["678"]
        for _ in range(30):
            refused = await asyncio.gather(*(http.call("PUT", f"customer.balance.{number}") for number in range(5)))
            assert [status for status, _, _ in refused] == [403] * 5
            status, body, _ = await http.call("POST", "customer.balance", b'{"client_id":"678"}')
            assert (status, body) == (200, right)


async def test_a_refusal_is_for_the_subject_as_it_is_written(served: World) -> None:
    """The error that tells of it names the subject in lower case."""
    async with http_gateway(served) as http:
        calls = [
            http.call("POST", subject, b'{"client_id":"678"}')
            for _ in range(50)
            for subject in ("CUSTOMER.BALANCE", "customer.balance", "Customer.Balance")
        ]
        statuses = [status for status, _, _ in await asyncio.gather(*calls)]
    assert statuses == [403, 200, 403] * 50


@pytest.mark.parametrize("character", ['"', "\\", "%00", "%E2%80%8B", "%C2%A0", "%7F", "%0A"])
async def test_a_subject_that_the_server_would_quote_is_refused(world: World, character: str) -> None:
    async with http_gateway(world) as http:
        for method in ("POST", "PUT"):
            status, _, headers = await http.call(method, f"customer.b{character}x")
            assert (status, headers[ERROR]) == (400, "not a subject to publish to")


async def test_what_would_end_the_connection_is_refused_before_it_is_sent(served: World) -> None:
    async with http_gateway(served) as http:
        answered = await http.call("POST", "customer.balance", b"x" * (1024 * 1024), natsh_a="1")
        assert answered[0] == 413
        for method, subject in (("POST", "a" * 5000), ("PUT", "a" * 5000), ("PUT", f"a?reply={'b' * 5000}")):
            assert (await http.call(method, subject))[0] == 400
        assert (await http.call("PUT", "customer.balance?reply=a..b"))[0] == 400
        held = asyncio.create_task(http.call("POST", "customer.balance", b'{"client_id":"678"}'))
        assert (await held)[0] == 200, "the connection is the same and there"


async def test_a_lost_connection_fails_what_waits_on_it_at_once(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with own_server(world, tmp_path_factory.mktemp("own")) as (own, server), own.client("service") as silent:
        await silent.subscribe("customer.balance", queue="q")
        await roundtrip(silent)
        async with http_gateway(own) as http:
            asked = asyncio.create_task(http.call("POST", "customer.balance?timeout=60000"))
            await eventually(lambda: silent.stats["in_msgs"] == 1)
            await server.stop()
            async with asyncio.timeout(10):
                status, _, headers = await asked
        assert (status, headers[ERROR]) == (503, "the connection to NATS was lost")


async def test_what_http_or_nats_cannot_carry_is_an_answer(world: World) -> None:
    async with world.client("service") as server, http_gateway(world) as http:

        async def answer(msg: Msg) -> None:
            await server.publish(msg.reply, b"ok", headers={"Fine": "1", "Odd": "a\tü"})

        await server.subscribe("customer.balance", queue="q", cb=answer)
        await roundtrip(server)
        status, body, headers = await http.call("POST", "customer.balance")
        assert (status, body, headers["NatsH-Fine"]) == (200, b"ok", "1")
        assert {name for name in headers if name.startswith("NatsH-")} == {"NatsH-Fine"}
        status, _, headers = await http.call("POST", f"customer.balance?timeout={'9' * 5000}")
        assert (status, headers[ERROR]) == (400, "timeout must be milliseconds, 1 to 60000")
        host, port = http.url.removeprefix("http://").split(":")
        head = b"POST /v1/nats/subjects/customer.balance HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\n" % TOKEN.encode()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"NatsH-A: \xe9\r\nContent-Length: 0\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_hangs_up_leaves_no_traceback_and_delays_no_end(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(20):
        async with http_gateway(world) as http:
            host, port = http.url.removeprefix("http://").split(":")
            for ends in (True, False):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(
                    b"POST /v1/nats/subjects/customer.balance HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\n"
                    b"Content-Length: 100\r\n\r\nhalf" % TOKEN.encode()
                )
                await writer.drain()
                if ends:
                    writer.close()
                    await writer.wait_closed()
            assert (await http.call("PUT", "customer.balance"))[0] == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    writer.close()


async def test_it_answers_as_its_document_says(served: World) -> None:
    async with http_gateway(served) as http:
        ask = b'{"client_id":"678"}'
        for given in (f"bearer {TOKEN}", f"BEARER  {TOKEN}"):
            assert (await http.call("POST", "customer.balance", ask, authorization=given))[0] == 200
        assert (await http.call("POST", "customer.balance", ask, authorization=f"Bearer{TOKEN}"))[0] == 401
        for accept in ("application/jsonlines", "text/plain, x/application/json", "application/json;q=0"):
            assert (await http.call("POST", "customer.balance", ask, accept=accept))[1].startswith(b'{"balance"')
        _, body, _ = await http.call("POST", "customer.balance", ask, accept="text/html, Application/JSON; q=0.5")
        assert orjson.loads(body).keys() == {"subject", "reply", "header", "data"}
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("DELETE", PATH + "a", 405),
            ("GET", PATH + "customer.balance.*", 501),
            ("PUT", "/v1/kv/config/seed", 501),
            ("GET", "/v1/kvm/buckets", 501),
        ):
            async with http.session.request(method, http.url + path, headers={"authorization": TOKEN}) as response:
                assert response.status == status
                assert response.headers[ERROR]


async def test_a_repeated_header_is_one_list(world: World) -> None:
    async with world.client("service") as server, http_gateway(world) as http:
        seen: list[dict[str, str]] = []

        async def answer(msg: Msg) -> None:
            seen.append(msg.headers or {})
            await msg.respond(b"ok")

        await server.subscribe("customer.balance", queue="q", cb=answer)
        await roundtrip(server)
        headers = [("Authorization", TOKEN), ("NatsH-A", "1"), ("NatsH-A", "2")]
        async with http.session.post(f"{http.url}{PATH}customer.balance", headers=headers) as response:
            assert response.status == 200
        assert seen == [{"A": "1, 2"}]
