"""The role against the real servers: one row for each event, whatever happens to tasks, messages and DynamoDB."""

from __future__ import annotations

import socket

from tests.support.archive import ArchiveWorld
from tests.support.world import log_lines


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
