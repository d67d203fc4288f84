"""A drill on bytes that no client library sends: whatever the server takes from a user, no task may feel it.

Hypothesis makes the frames, the same ones each time, and the fewest and shortest that do harm when some do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg

from local.system import Task
from service.contracts import customer as contract
from tests.support.drills.drill import Drill, Probe, memory_mib, stored, words
from tests.support.nats.wire import Wire, hpub, pub, wire
from tests.support.world import World, metric, statistics, stop, tasks

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(900)]

FORBIDDEN: Final = [
    b"customer.balance", b"$SRV.PING", b"customer.balance.678", b"customer.balance.drill",
    b"$KV.config.seed", b"$KV.config.seed-lease",
    b"$JS.API.STREAM.PURGE.customer-balances", b"$JS.API.STREAM.INFO.customer-balances",
    b"$JS.API.STREAM.INFO.KV_config", b"$JS.API.STREAM.MSG.GET.KV_config",
    b"$JS.API.DIRECT.GET.KV_config.$KV.config.seed", b"$SYS.REQ.USER.INFO",
    b"_INBOX_service.drill.1", b"_INBOX_service.drill.0123456789.1",
]  # fmt: skip
"""What the service may publish to, or one would like it to. Nothing that is not a request's answer goes there."""
STATUSES: Final = [
    b" 503",
    b" 100 Idle Heartbeat",
    b" \xff\xff\xff",
    b" 503 \xff\xff",
    b" 100 FlowControl Request",
    b"  ",
]
TASK: Final = b"ID-OF-THE-TASK"
"""Stands in a frame for what differs from run to run."""
OWN_INBOX: Final = f"{contract.INBOX_PREFIX}.drill.>"

token = st.binary(max_size=24).map(lambda raw: raw.translate(None, b" \t\r\n"))
long = st.integers(0, 4000).map(lambda size: b"_" + b"\xc3\xa9" * (size // 2))
reply = st.one_of(
    st.sampled_from(FORBIDDEN),
    st.sampled_from([b"_authorization.x", b"_R_.authorization.violation", b"_INBOX.>", b"_INBOX.*.x", b"_INBOX..x"]),
    token, token.map(b"_".__add__), token.map(b"_INBOX.".__add__), token.map(b"_INBOX_service.drill.".__add__), long,
)  # fmt: skip
field = st.tuples(st.sampled_from([b"a", b"traceparent", b"Nats-Msg-Id", b"\xff", b"", b"a b", b"Status"]), token)
fields = st.lists(field, max_size=4).map(lambda many: b"".join(b"%b: %b\r\n" % each for each in many))
header = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(b"NATS/1.0".__add__),
    st.builds(
        lambda status, lines: b"NATS/1.0%b\r\n%b\r\n" % (status, lines), st.sampled_from([b"", *STATUSES]), fields
    ),
    st.builds(lambda line, times: b"NATS/1.0\r\n%b\r\n" % (line * times), fields, st.integers(0, 500)),
    st.integers(0, 60_000).map(lambda size: b"NATS/1.0\r\nX: %b\r\n\r\n" % (b"x" * size)),
    st.integers(0, 14).map(lambda size: b"NATS/1.0\r\n\r\n\r\n"[:size]),
)
payload = st.one_of(
    st.sampled_from([b"", b'{"client_id":"nobody"}', b'{"client_id":678}', b"[" * 99]), st.binary(max_size=40)
)


def frames() -> st.SearchStrategy[bytes]:
    """One frame of a user that may publish to the service's subject and to `$SRV.>`."""
    suffixes = ["", ".customer", f".customer.{TASK.decode()}"]
    discovery = [f"$SRV.{verb}{suffix}".encode() for verb in ("PING", "INFO", "STATS") for suffix in suffixes]
    subject = st.one_of(
        st.sampled_from([subject.encode() for subject in contract.REQUESTS]),
        st.sampled_from(discovery),
        token.map(lambda end: b"$SRV.PING.customer." + end),
    )
    # A request that could be answered with a balance asks for that where it must not be sent: else it is a neighbour's.
    known = st.sampled_from([contract.SUBJECT.encode(), contract.GET_SUBJECT.encode()])
    stolen = st.builds(pub, known, st.just(b'{"client_id":"678"}'), st.sampled_from(FORBIDDEN))
    adjustment = b'{"client_id":"678","adjustment_id":"stolen","points":1}'
    forced = st.builds(pub, st.just(contract.ADJUST_SUBJECT.encode()), st.just(adjustment), st.sampled_from(FORBIDDEN))
    return st.one_of(
        st.builds(pub, subject, payload, reply), st.builds(hpub, subject, header, payload, reply), stolen, forced
    )


class Attack:
    """A user's connection, the tasks it attacks, and what can be seen of them from outside."""

    def __init__(self, world: World, user: str, count: int, seen: Counter[str], probe: Probe) -> None:
        self._world = world
        self._user = user
        self._count = count
        self._seen = seen
        self._probe = probe
        self._stack = AsyncExitStack()
        self._wire: Wire | None = None
        self._task = b""
        self._accepted = 0
        self.tasks: list[Task] = []

    async def start(self) -> None:
        env = {name: value for name, value in (await self._world.with_adjustments()).items() if name != "SEED_ROWS"}
        self.tasks = await self._stack.enter_async_context(tasks(self._world, self._count, **env))
        self._task = (await statistics(self._probe.client, self._count))[0]["id"].encode()

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def accepted(self) -> int:
        return self._accepted + (self._wire.accepted if self._wire else 0)

    async def run(self, some: list[bytes]) -> None:
        """Send some frames, and see that they did nothing; new tasks, for the next ones, where they did."""
        if self._wire is None or self._wire.closed:
            self._accepted = self.accepted
            self._wire = await self._stack.enter_async_context(
                wire(self._world.nats_url, self._world.creds(self._user))
            )
        for frame in some:
            self._wire.send(frame.replace(TASK, self._task))
        await self._wire.roundtrip()
        outcomes = await asyncio.gather(*(self._probe.ask("7") for _ in range(2 * self._count)))
        ended = [task.child.process.returncode for task in self.tasks]
        harm = {
            "the neighbour was answered": [outcome for outcome in outcomes if outcome != "OK"],
            "tasks that ended": [code for code in ended if code is not None],
            "published elsewhere": dict(self._seen),
            "reconnected": sum([await metric(task, "balance_nats_reconnects_total") for task in self.tasks])
            if ended == [None] * self._count else 0,
        }  # fmt: skip
        if any(harm.values()):
            await self.close()
            self._wire, self._stack = None, AsyncExitStack()
            self._seen.clear()
            await self.start()
            raise AssertionError(", ".join(f"{what}: {value}" for what, value in harm.items() if value))


def send_examples(attack: Attack, examples: int, loop: asyncio.AbstractEventLoop) -> None:
    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, print_blob=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(st.tuples(frames(), st.integers(1, 9)), min_size=1, max_size=60))
    def some(repeated: list[tuple[bytes, int]]) -> None:
        sent = [frame for frame, times in repeated for _ in range(times)]
        asyncio.run_coroutine_threadsafe(attack.run(sent), loop).result()

    some()


@pytest.mark.drill(
    "10,000 frames no client library sends ({}): replies, header parts and statuses of any bytes, $SRV, the "
    "subjects that the service may publish to",
    "every request of a neighbour answered; stream, bucket and connection as if nothing was; no task ends; "
    "log and memory bounded",
)
@pytest.mark.parametrize(
    ("user", "count"),
    [
        pytest.param("client", 1, id="client, one task"),
        pytest.param("gateway", 2, id="gateway, two tasks"),
        pytest.param("registrar", 1, id="registrar, one task"),
        pytest.param("teller", 1, id="teller, one task"),
    ],
)
async def test_bytes(world: World, drill: Drill, user: str, count: int) -> None:
    examples, least = drill.pick((40, 500), (600, 10_000))
    async with watch(world) as seen, world.client() as neighbour:
        # Before there are rows, there is nothing to ask for.
        probe = Probe(neighbour, {}, timeout_s=3)
        attack = Attack(world, user, count, seen, probe)
        await attack.start()
        try:
            probe.balances = {client_id: balance for client_id, balance in world.rows().items() if client_id != "678"}
            bucket = await bucket_of(world)
            memory = sum(map(memory_mib, attack.tasks))
            lines = sum(len(task.child.log.read_text().splitlines()) for task in attack.tasks)
            loop = asyncio.get_running_loop()
            async with probe.at(20):
                await asyncio.to_thread(send_examples, attack, examples, loop)
            grown = sum(map(memory_mib, attack.tasks)) - memory
            logged = sum(len(task.child.log.read_text().splitlines()) for task in attack.tasks) - lines
            await stop(*attack.tasks)
            drill.found(
                f"{attack.accepted:,} frames accepted; {words(probe.outcomes)} of the neighbour's; "
                f"{logged} lines logged; memory {grown:+.1f} MiB; published elsewhere: {words(seen)}"
            )
            await stored(world, probe.outcomes["OK"])
            assert await bucket_of(world) == bucket
        finally:
            await attack.close()
    assert attack.accepted >= least
    assert probe.outcomes.keys() == {"OK"}
    assert seen == {}
    assert world.ledger() == [], "an adjustment that nobody may be answered with is not made"
    assert logged < 100
    assert grown < 60 * count


async def bucket_of(world: World) -> tuple[int, int]:
    """The bucket's last revision, and how many keys it holds."""
    async with world.administrator() as admin:
        state = (await admin.stream_info(f"KV_{contract.BUCKET}")).state
        return state.last_seq, state.messages


@asynccontextmanager
async def watch(world: World) -> AsyncIterator[Counter[str]]:
    """What comes to where nothing of the attack may go; the neighbour never asks for these ids."""
    seen: Counter[str] = Counter()

    async def look(msg: Msg) -> None:
        seen[msg.subject] += 1

    async with world.administrator() as admin:
        for subject in ("customer.balance.678", "customer.balance.drill", "$JS.API.STREAM.PURGE.>", OWN_INBOX):
            await admin._nc.subscribe(subject, cb=look)
        yield seen
