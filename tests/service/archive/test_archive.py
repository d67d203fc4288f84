"""The role against the real servers: one row for each event, whatever happens to tasks, messages and DynamoDB."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from control_plane.desired import ADMINISTRATOR
from service.archive.event import EventRows
from service.contracts import archive as contract
from service.contracts.archive import STREAM
from service.dynamodb.writer import Item, Key, Writer
from service.dynamodb.writer import Result as Written
from service.nats.connection import roundtrip
from service.runtime.role import Need
from service.sources.jetstream.dead_letters import DeadLetterStream
from service.sources.jetstream.message import StreamMessage
from service.sources.source import Backlog
from service.writing.archiver import BATCHES, BATCHES_AT_START, Archiver
from service.writing.letters import Letters
from tests.support.archive import ArchiveWorld, delivered, ended
from tests.support.command import finished
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, stall
from tests.support.network import network
from tests.support.world import complaint, eventually, get, log_lines, metric, statistics


async def test_events_become_rows_and_the_task_ends_by_itself(archive: ArchiveWorld) -> None:
    await archive.publish(300)
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert archive.sequences() == list(range(1, 301))
    row = next(row for row in archive.rows() if row["client_id"] == {"S": "7"})
    event = await archive.admin.get_msg("customer-balances", 8)
    assert row["sequence"] == {"N": "8"}
    assert row["body"] == {"S": '{"balance":7}'}
    assert row["balance"] == {"N": "7"}
    assert row["Nats-Msg-Id"] == {"S": "m7"}
    assert row["host"]["S"].startswith(f"{socket.gethostname()}:")
    time, _, sequence = row["event"]["S"].partition("#")
    assert (time, sequence) == (row["event_time"]["S"], "8")
    assert event.time is not None
    assert time.startswith(event.time.strftime("%Y-%m-%dT%H:%M:%S."))
    assert len(time) == len("2026-11-25T06:23:29.123456789Z")
    assert "expires_at" not in row
    assert await archive.is_archived()
    assert [line["event"] for line in log_lines(log)][-1] == "drained"


async def test_sigterm_gives_back_at_once_what_is_not_written(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    archive.env = proxy.env
    await archive.publish(1500)
    proxy.fault = stall(1.0)
    async with archive.task() as task:
        await eventually(lambda: len(proxy.calls) > 5, what="writes")
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0
        (drained,) = [line for line in log_lines(task.child.log.read_text()) if line["event"] == "drained"]
    assert drained["given_back"] > 500
    assert drained["rows"] > 0
    proxy.fault = None
    async with archive.task():
        # Well before `ack_wait`, which is 30 seconds.
        await eventually(archive.is_archived, within_s=15, what="an empty backlog")
    assert archive.sequences() == list(range(1, 1501))


async def test_sigterm_while_it_starts_gives_back_at_once(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    archive.env = proxy.env
    await archive.publish(600)
    proxy.fault = lambda action, _: asyncio.sleep(1.0) if action == "BatchWriteItem" else None
    async with network(archive.world.nats_url) as (there, url), archive.launch(NATS_URL=url) as task:
        there.answer_s = 0.1
        await eventually(lambda: any(action == "BatchWriteItem" for action, _ in proxy.calls), what="a write")
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0
        assert "drained" in [line["event"] for line in log_lines(task.child.log.read_text())]
    proxy.fault = None
    async with archive.task():
        await eventually(archive.is_archived, within_s=15, what="an empty backlog")  # `ack_wait` is 30 seconds


async def test_sigterm_while_nats_is_silent_ends_it_in_time(archive: ArchiveWorld) -> None:
    async with (
        network(archive.world.nats_url) as (there, url),
        archive.task(NATS_URL=url, SHUTDOWN_TIMEOUT="3") as task,
        there.stalled(),
    ):
        task.child.signal(signal.SIGTERM)
        async with asyncio.timeout(8):  # a flush gives up after ten seconds
            assert await task.child.wait() == 0


async def test_a_subject_that_is_no_text_is_a_dead_letter(archive: ArchiveWorld) -> None:
    async with archive.world.client(ADMINISTRATOR.name) as client:
        client._pending.append(b"PUB customer.balance.\xff\xfe 2\r\n{}\r\n")
        client._pending_data_size += 40
        await roundtrip(client)
    await archive.publish(5)
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert archive.sequences() == [2, 3, 4, 5, 6]
    letter = await archive.admin.get_msg(contract.DEAD_STREAM, 1)
    assert letter.headers is not None
    assert letter.headers["Archive-Reason"] == "subject is not UTF-8"


@pytest.mark.parametrize(("size", "cut"), [(900_000, False), (1_048_576, True)])
async def test_a_dead_letter_is_cut_only_where_the_server_takes_no_more(
    archive: ArchiveWorld, size: int, cut: bool
) -> None:
    body = b"x" * size
    await archive.publish_all([("customer.balance.big", body, None)])
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    letter = await archive.admin.get_msg(contract.DEAD_STREAM, 1)
    assert letter.data is not None
    assert letter.headers is not None
    if cut:
        assert letter.headers["Archive-Cut"] == str(size)
        assert size - 2000 < len(letter.data) < size
    else:
        assert "Archive-Cut" not in letter.headers
        assert letter.data == body


async def test_a_letter_whose_headers_alone_are_too_many_is_refused_and_not_the_connection(
    archive: ArchiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = SimpleNamespace(nc=archive.admin._nc)
    letters: Any = DeadLetterStream(connection, "archive", contract.DEAD_STREAM, contract.DEAD_SUBJECT, "s")  # type: ignore[arg-type]
    monkeypatch.setattr(archive.admin._nc, "_max_payload", 1024)
    assert "more than the server takes" in await letters.put(b"body", {"A": "x" * 1024}, "Cut")
    assert await letters.put(b"x" * 1024, {"A": "x" * 512}, "Cut") == ""
    letter = await archive.admin.get_msg(contract.DEAD_STREAM, 1)
    assert letter.headers
    assert letter.headers["Cut"] == "1024"
    assert 400 < len(letter.data or b"") < 512


async def test_a_full_dead_letter_stream_keeps_the_message_where_it_is(archive: ArchiveWorld) -> None:
    await archive.limit(contract.DEAD_STREAM, 1024)
    await archive.publish_all([("customer.balance.big", b"x" * (410 * 1024), None)])
    await archive.publish(5)
    async with archive.task() as task:
        await eventually(lambda: len(archive.rows()) == 5, what="rows")

        async def refused() -> bool:
            return await metric(task, "archive_dead_letters_refused_total") == 1

        await eventually(refused, what="a refused dead letter")
    assert await archive.backlog() == 1


async def test_an_event_with_a_status_header_is_an_event(archive: ArchiveWorld) -> None:
    await archive.publish_all([("customer.balance.7", b"{}", {"Status": "404"}), ("customer.balance.8", b"", None)])
    code, _ = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0
    assert archive.sequences() == [1, 2]


async def test_a_stalled_dynamodb_is_not_idleness(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    archive.env = proxy.env
    await archive.publish(10)
    release = asyncio.Event()

    async def hold(_: str, call: Call) -> None:
        if "RequestItems" in call:
            await release.wait()

    proxy.fault = hold
    async with archive.task(IDLE_EXIT="0.5") as task:
        await asyncio.sleep(2)
        assert task.child.process.returncode is None
        release.set()
        async with asyncio.timeout(20):
            assert await task.child.wait() == 0
    assert archive.sequences() == list(range(1, 11))


async def test_what_a_dead_task_holds_is_backlog(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    archive.env = proxy.env
    await archive.publish(10)

    async def hold(_: str, call: Call) -> None:
        if "RequestItems" in call:
            await asyncio.sleep(60)

    proxy.fault = hold
    async with archive.task() as task:
        await eventually(lambda: any("RequestItems" in call for _, call in proxy.calls), what="a write")
        task.child.signal(signal.SIGKILL)
        await task.child.wait()
    proxy.fault = None
    async with archive.task(IDLE_EXIT="0.5") as task:
        await asyncio.sleep(1.5)
        assert task.child.process.returncode is None, "ten messages are still held by a task that is dead"
        assert await archive.backlog() == 10


class Recording:
    """A source that remembers what was acknowledged."""

    name = "recording"
    portion = 500, 1 << 20
    visibility_s = 30.0

    def __init__(self) -> None:
        self.acknowledged: list[StreamMessage] = []

    def needs(self) -> Sequence[Need]:
        return ()

    async def start(self) -> None: ...

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[StreamMessage]:
        return await asyncio.Future()

    async def take_no_more(self) -> None: ...

    async def backlog(self) -> Backlog:
        return Backlog(0)

    def acknowledge(self, messages: Sequence[StreamMessage]) -> None:
        self.acknowledged += messages

    def extend(self, messages: Sequence[StreamMessage]) -> None: ...

    def give_back(self, messages: Sequence[StreamMessage], delay_s: float = 0.0) -> None: ...

    def problem(self) -> str:
        return ""

    async def settle(self) -> None: ...

    async def close(self) -> None: ...


async def test_a_visibility_that_is_shortened_meanwhile_is_kept_up() -> None:
    extended = asyncio.Event()

    class Shortened(Recording):
        visibility_s = 12.0

        def extend(self, messages: Sequence[StreamMessage]) -> None:
            extended.set()

    class Stalled(Writer):
        async def write(self, items: Sequence[Item]) -> Written:
            return await asyncio.Future()

    source = Shortened()
    archiver = Archiver(source, Stalled("t", "p", "s", "ARCHIVE_TABLE"), Nowhere(), EventRows())
    archiver.ledger.take([delivered(b"a.b", b"$JS.ACK.s.archive.1.1.1.1764052345123456789.0", b"{}", b"")])
    await archiver.start()
    await asyncio.sleep(0)
    source.visibility_s = 0.3
    try:
        async with asyncio.timeout(3.5):  # of a visibility of 12 s, four of them would pass
            await extended.wait()
    finally:
        await archiver.close()


class Nowhere(Letters[Any]):
    def __init__(self) -> None: ...

    async def put(self, message: StreamMessage, reason: str) -> str:
        raise AssertionError(f"a dead letter: {reason}")


async def test_the_same_message_twice_in_a_batch_is_one_row() -> None:
    written: list[list[Key]] = []

    class Recorder(Writer):
        async def write(self, items: Sequence[Item]) -> Written:
            written.append([item.key for item in items])
            return Written(written=list(items))

    source = Recording()
    archiver = Archiver(source, Recorder("t", "p", "s", "ARCHIVE_TABLE"), Nowhere(), EventRows())
    reply = b"$JS.ACK.s.archive.1.1.1.1764052345123456789.0"
    messages = [delivered(b"a.b", reply, b"{}", b"") for _ in range(2)]
    archiver.ledger.take(messages)
    await archiver.start()
    await eventually(lambda: archiver.ledger.held == 0)
    await archiver.close()
    assert archiver.ledger.received == 2, "a trickle is seen by what came, however soon it is done"
    assert [len(keys) for keys in written] == [1]
    assert source.acknowledged == messages


def numbered(count: int) -> list[StreamMessage]:
    reply = b"$JS.ACK.s.archive.1.%d.%d.1764052345123456789.0"
    return [delivered(b"a.b", reply % (number, number), b"{}", b"") for number in range(1, count + 1)]


async def test_all_that_waits_is_sent_and_never_more_at_a_time_than_the_limit() -> None:
    flying, most, sizes = 0, 0, list[int]()

    class Counting(Writer):
        async def write(self, items: Sequence[Item]) -> Written:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            sizes.append(len(items))
            await asyncio.sleep(0)
            flying -= 1
            return Written(written=list(items), lost=len(sizes) == 30)

    source = Recording()
    archiver = Archiver(source, Counting("t", "p", "s", "ARCHIVE_TABLE"), Nowhere(), EventRows())
    messages = numbered(2_000)
    archiver.ledger.take(messages)
    await archiver.start()
    await asyncio.sleep(0)
    assert len(archiver._sending) == BATCHES_AT_START
    await eventually(lambda: archiver.ledger.held == 0 and not archiver._sending)
    await archiver.close()
    assert sorted(source.acknowledged, key=lambda message: message.number) == messages
    assert sizes == [25] * 80
    assert BATCHES_AT_START < most <= BATCHES
    assert (archiver.ledger.bytes, archiver.stats.rows, archiver.stats.batches) == (0, 2_000, 80)


async def test_closing_leaves_no_task_behind() -> None:
    class Stalled(Writer):
        async def write(self, items: Sequence[Item]) -> Written:
            return await asyncio.Future()

    archiver = Archiver(Recording(), Stalled("t", "p", "s", "ARCHIVE_TABLE"), Nowhere(), EventRows())
    before = asyncio.all_tasks()
    archiver.ledger.take(numbered(500))
    await archiver.start()
    await eventually(lambda: bool(archiver._sending))
    await archiver.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
    assert not archiver._sending


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ARCHIVE_SOURCE": ""}, "ARCHIVE_SOURCE is not set"),
        ({"ARCHIVE_SOURCE": "kafka:x"}, "ARCHIVE_SOURCE is not valid"),
        ({"ARCHIVE_TABLE": ""}, "ARCHIVE_TABLE is not set"),
        ({"ARCHIVE_TABLE": "not-there"}, "table not-there does not exist; deploy the stack, or correct ARCHIVE_TABLE"),
        ({"IDLE_EXIT": "-1"}, "IDLE_EXIT is not valid"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
async def test_says_in_one_line_what_is_missing(archive: ArchiveWorld, overrides: dict[str, str], message: str) -> None:
    code, log = await archive.run_to_end(**overrides)
    assert code == 1
    assert message in complaint(log)


async def test_a_table_with_other_keys_and_a_consumer_that_is_gone(archive: ArchiveWorld) -> None:
    code, log = await archive.run_to_end(ARCHIVE_TABLE=archive.world.table)
    assert code == 1
    assert (
        f"error: table {archive.world.table} has the keys id (S); give a table with the keys client_id (S)"
        in complaint(log)
    )
    async with archive.task() as task:
        await archive.admin.delete_consumer(STREAM, contract.CONSUMER)
        async with asyncio.timeout(20):
            assert await task.child.wait() == 1
        assert ended(task.child.log.read_text()).startswith(
            "consumer archive of stream customer-balances does not exist; make it with"
        )


@pytest.mark.parametrize(
    "filters", [{"filter_subject": "customer.balance.1"}, {"filter_subjects": ["customer.balance.1", "other.>"]}]
)
async def test_a_consumer_that_is_not_given_every_event(archive: ArchiveWorld, filters: dict[str, Any]) -> None:
    config = (await archive.admin.consumer_info(STREAM, contract.CONSUMER)).config
    await archive.admin.add_consumer(STREAM, config.evolve(**filters))
    code, log = await archive.run_to_end()
    assert code == 1
    assert "has the filter customer.balance.1" in complaint(log)
    assert "and every message is wanted" in complaint(log)


async def test_statistics_health_and_check(archive: ArchiveWorld) -> None:
    await archive.publish(30)
    async with archive.task() as task, archive.world.client() as client:
        await eventually(archive.is_archived, what="an empty backlog")
        (stats,) = await statistics(client, 1, name=contract.SERVICE_NAME)
        (rows,) = stats["endpoints"]
        assert (stats["name"], rows["name"], rows["num_requests"], rows["num_errors"]) == ("archive", "rows", 30, 0)
        assert rows["data"]["host"] == archive.rows()[0]["host"]["S"]
        assert await metric(task, "archive_rows_total") == 30
        assert await metric(task, "archive_held_bytes") == 0
        assert (await get(f"{task.health_url}/healthz"))[0] == 200
    code, output = await finished("service", "archive", "--check", **archive.environment())
    assert (code, output.count("ok ")) == (0, 6), output
