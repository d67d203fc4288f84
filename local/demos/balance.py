"""Show the main job on real servers, check it and clean up."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Sequence

import aiohttp
import orjson
from nats.aio.client import Client
from nats.js import JetStreamContext
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from control_plane.desired import GATEWAY, REGISTRAR, TELLER
from control_plane.self_hosted import provider as self_hosted
from local.demos.demo import Demo, demonstration
from local.load import ask_all, request_for
from local.servers.dynamodb import rows
from local.servers.engine import has_engine
from local.system import TABLE, System
from service.contracts import customer as contract
from service.contracts.stream import STREAM
from service.nats.discovery import instances

TASKS = 3


async def run(console: Console) -> None:
    """Run the demonstration. Raises `LocalError` when a check fails."""
    starting = "nats-server, a DynamoDB engine, the HTTP gateway and three service tasks; it takes half a minute"
    async with (
        demonstration(console, starting, tasks=TASKS) as (shown, system),
        self_hosted.connected(system.nats_url, system.creds["client"]) as client,
        system.administrator() as admin,
    ):
        demo, jetstream = _Demo(shown), admin.jetstream()
        await demo.seeding(system, jetstream)
        balances = await asyncio.to_thread(rows, TABLE, system.dynamodb_env)
        await demo.over_nats(client, balances)
        await demo.over_http(system, balances)
        await demo.clients(client, system)
        await demo.adjustments(client, system)
        await demo.errors(client)
        await demo.stream(jetstream)
        await demo.statistics(client, balances)
        await demo.sigterm_under_load(system, client, jetstream, balances)


class _Demo:
    """The chapters of the demonstration: each shows something and checks it."""

    def __init__(self, demo: Demo) -> None:
        self._console = demo.console
        self._title, self._note, self._check = demo.title, demo.note, demo.check

    async def seeding(self, system: System, jetstream: JetStreamContext) -> None:
        self._title("Three tasks started at once; one of them seeded the table")
        logs = [task.child.log.read_text().splitlines() for task in system.tasks]
        events = [orjson.loads(line) for log in logs for line in log if line.startswith("{")]
        seeded = [event for event in events if event.get("event") == "seeded"]
        for event in seeded:
            self._note(f"{event['written']} rows written in {event['seconds']} s")
        flag = await (await jetstream.key_value(contract.BUCKET)).get(contract.SEED_KEY)
        self._note(f"bucket {contract.BUCKET}: {contract.SEED_KEY} = {(flag.value or b'').decode()}")
        there = await asyncio.to_thread(rows, TABLE, system.dynamodb_env)
        # A response of moto may come too late: the row was written, and the repeated insert finds it.
        lost = 0 if has_engine() else sum(event["already_there"] for event in seeded)
        self._check(
            len(seeded) == 1 and seeded[0]["written"] + lost == 1000,
            "one task of three seeded, 1,000 rows, none written twice",
        )
        self._check(
            len(there) == 1000 and flag.value == contract.SEED_DONE, "the table has 1,000 rows, the flag is set"
        )

    async def over_nats(self, client: Client, balances: dict[str, int]) -> None:
        self._title("A balance over NATS, as user client")
        reply = await client.request(contract.SUBJECT, request_for("678"), timeout=2)
        self._command("""nats req customer.balance '{"client_id":"678"}'""", reply.data)
        self._check(reply.data == b'{"balance":%d}' % balances["678"], "the reply over NATS is the table's balance")

    async def over_http(self, system: System, balances: dict[str, int]) -> None:
        self._title("The same over HTTP, through the gateway")
        body = await self._post(system, GATEWAY.name, contract.SUBJECT, request_for("678"))
        self._check(body == b'{"balance":%d}' % balances["678"], "the reply over HTTP is the same")

    async def clients(self, client: Client, system: System) -> None:
        self._title("A client created over HTTP, as user registrar, then read over NATS, with its balance")
        new = {"client_id": "john", "name": "John Doe", "created_at": "2024-01-23"}
        made = await self._post(system, REGISTRAR.name, contract.CREATE_SUBJECT, orjson.dumps(new))
        self._check(orjson.loads(made) == {"client_id": "john"}, "the new client's id is answered")
        request = b'{"client_id":"john","consistent":true}'
        read = await client.request(contract.GET_SUBJECT, request, timeout=2)
        self._command(f"nats req {contract.GET_SUBJECT} '{request.decode()}'", read.data)
        self._check(orjson.loads(read.data) == {**new, "balance": 0}, "the client is read as it was created")
        balance = await client.request(contract.SUBJECT, request_for("john"), timeout=2)
        self._command(f"nats req {contract.SUBJECT} '{request_for('john').decode()}'", balance.data)
        self._check(balance.data == b'{"balance":0}', "its balance is 0")

    async def adjustments(self, client: Client, system: System) -> None:
        self._title("Points earned over HTTP, as user teller; the same again; more redeemed than there are")
        earn = b'{"client_id":"john","points":500,"adjustment_id":"order-9913","reason":"welcome"}'
        made, again = [await self._post(system, TELLER.name, contract.ADJUST_SUBJECT, earn) for _ in range(2)]
        told = {"client_id": "john", "adjustment_id": "order-9913", "points": 500, "balance": 500}
        self._check(orjson.loads(made) == told, "500 points were earned, and the balance is 500")
        self._check(made == again, "the repeat got the same bytes")
        redeem = b'{"client_id":"john","points":-501,"adjustment_id":"order-9914"}'
        refused = await self._post(system, TELLER.name, contract.ADJUST_SUBJECT, redeem)
        self._check(refused == b'{"error":"the balance is less than that"}', "501 are not redeemed")
        statement = await client.request(contract.STATEMENT_SUBJECT, request_for("john"), timeout=2)
        self._command(f"nats req {contract.STATEMENT_SUBJECT} '{request_for('john').decode()}'", statement.data)
        entries = orjson.loads(statement.data)["adjustments"]
        self._check([entry["balance"] for entry in entries] == [500], "its statement has the one that was made")

    async def _post(self, system: System, user: str, subject: str, payload: bytes) -> bytes:
        url = f"{system.gateway_url}/v1/nats/subjects/{subject}"
        headers = {"authorization": system.gateway_tokens[user], "content-type": "application/json"}
        async with aiohttp.ClientSession() as http, http.post(url, data=payload, headers=headers) as response:
            body = await response.read()
        self._command(f"""curl -X POST "{url}" -H "authorization: …" -d '{payload.decode()}'""", body)
        return body

    async def errors(self, client: Client) -> None:
        self._title("A request that is refused, and an unknown client")
        for request, code in ((b'{"client_id":678}', "403"), (b'{"client_id":"stranger"}', "404")):
            reply = await client.request(contract.SUBJECT, request, timeout=2)
            headers = reply.headers or {}
            shown = " ".join(headers.get(name, "") for name in ("Nats-Service-Error-Code", "Nats-Service-Error"))
            self._command(f"nats req customer.balance '{request.decode()}'", shown.encode() + b"  " + reply.data)
            self._check(headers.get("Nats-Service-Error-Code") == code, f"{request.decode()} is answered with {code}")

    async def stream(self, jetstream: JetStreamContext) -> None:
        self._title(f"The responses in the stream {STREAM}")
        await _settled(jetstream, 5)
        state = (await jetstream.stream_info(STREAM)).state
        lines = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            event = await jetstream.get_msg(STREAM, sequence)
            identity = (event.headers or {}).get("Nats-Msg-Id", "")
            lines.append([str(sequence), event.subject or "", (event.data or b"").decode(), identity])
        self._table(["seq", "subject", "payload", "Nats-Msg-Id"], lines)
        self._check(state.messages == 5, "one event for each balance, two for an adjustment, none for an error")

    async def statistics(self, client: Client, balances: dict[str, int]) -> None:
        requests, concurrency = (3000, 300) if has_engine() else (300, 30)
        self._title(f"{requests:,} requests at concurrency {concurrency}, and the tasks' statistics")
        ids = itertools.islice(itertools.cycle(balances), requests)
        tally = await ask_all([client], ids, concurrency=concurrency, expected=balances)
        stats = await instances(client, contract.SERVICE_NAME)
        lines = []
        for answer in sorted(stats, key=lambda answer: str(answer["id"])):
            endpoint = next(each for each in answer["endpoints"] if each["name"] == contract.ENDPOINT_NAME)
            lines.append(
                [
                    answer["id"],
                    f"{endpoint['num_requests']:,}",
                    f"{endpoint['num_errors']:,}",
                    endpoint["last_error"] or "-",
                    f"{endpoint['average_processing_time'] / 1e6:.2f} ms",
                ]
            )
        self._table(["task", "requests", "errors", "last error", "average"], lines)
        self._check(tally.balances == requests, f"{requests:,} correct replies to {requests:,} requests")
        counted = sum(endpoint["num_requests"] for answer in stats for endpoint in answer["endpoints"])
        self._check(
            len(stats) == TASKS and counted == requests + 11, "$SRV.STATS of the three tasks adds up to what was sent"
        )

    async def sigterm_under_load(
        self, system: System, client: Client, jetstream: JetStreamContext, balances: dict[str, int]
    ) -> None:
        self._title("One task gets SIGTERM under load")
        before = (await jetstream.stream_info(STREAM)).state.last_seq
        task = system.tasks.pop()
        stopped = asyncio.Event()

        async def stop() -> int:
            await asyncio.sleep(0.5)
            task.child.signal(signal.SIGTERM)
            code = await task.child.wait()
            await asyncio.sleep(0.5)
            stopped.set()
            return code

        stopping = asyncio.create_task(stop())
        tally = await ask_all(
            [client],
            itertools.cycle(balances),
            concurrency=100 if has_engine() else 30,
            expected=balances,
            until=stopped.is_set,
        )
        code = await stopping
        stored = await _settled(jetstream, before + tally.balances) - before
        self._note(
            f"{tally.sent:,} requests, {tally.balances:,} correct replies, {stored:,} events; it exited with {code}"
        )
        self._check(code == 0, "the task drained and exited with 0")
        self._check(tally.balances == tally.sent, "no request was lost")
        self._check(stored == tally.balances, "the stream holds one event for each reply")

    def _command(self, command: str, output: bytes) -> None:
        self._console.print(f"  [dim]$[/] {escape(command)}")
        self._console.print(f"  {escape(output.decode())}")

    def _table(self, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, box=box.SIMPLE_HEAD if self._console.is_terminal else None, pad_edge=False)
        for line in lines:
            table.add_row(*map(escape, line))
        self._console.print(table)


async def _settled(jetstream: JetStreamContext, wanted: int) -> int:
    """Return the stream's last sequence, when it is `wanted` or after two seconds: the stream lags the replies."""
    sequence = 0
    try:
        async with asyncio.timeout(2):
            while (sequence := (await jetstream.stream_info(STREAM)).state.last_seq) < wanted:
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    return sequence
