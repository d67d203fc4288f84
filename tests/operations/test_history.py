"""A client's archived events, newest first, page by page."""

from __future__ import annotations

import orjson

from tests.support.archive import ArchiveWorld
from tests.support.command import finished


async def test_newest_first_a_page_at_a_time(archive: ArchiveWorld) -> None:
    await archive.publish_all([("customer.balance.7", b'{"balance":%d}' % number, None) for number in range(5)])
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    env = dict(archive.world.servers.dynamodb_env)
    found: list[int] = []
    before = ""
    for _ in range(3):
        arguments = [archive.table, "7", "--limit", "2", "--json", "--before", before]
        code, output = await finished("operations.history", *arguments, **env)
        assert code == 0, output
        rows = [orjson.loads(line) for line in output.splitlines()]
        found += [row["balance"] for row in rows]
        before = rows[-1]["event"]
    assert sorted(found, reverse=True) == [4, 3, 2, 1, 0]
    code, output = await finished("operations.history", archive.table, "7", "--limit", "2", **env)
    assert output.splitlines()[0].startswith("event_time")
    assert output.splitlines()[-1].startswith("older: --before '")
    code, output = await finished("operations.history", "not-there", "7", **env)
    assert code == 1
    assert output.startswith("error: ")
    assert len(output.splitlines()) == 1


async def test_bodies_of_any_bytes_are_shown_and_a_page_that_dynamodb_ends_has_an_older_one(
    archive: ArchiveWorld,
) -> None:
    bodies = [b"\xff\x00", b"\x1b[31mred", *[b"x" * 390_000] * 5]
    await archive.publish_all([("customer.balance.7", body, None) for body in bodies])
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    env = dict(archive.world.servers.dynamodb_env)
    found: list[str] = []
    before: list[str] = []
    while True:
        code, output = await finished("operations.history", archive.table, "7", *before, **env)
        assert code == 0, output
        lines = output.splitlines()
        found += [line.split()[-1] for line in lines[1:] if not line.startswith("older: ")]
        if not lines[-1].startswith("older: "):
            break
        before = ["--before", lines[-1].split("'")[1]]
    assert [body for body in found if len(body) < 100] == ["\\x1b[31mred", "/wA="]
    assert len(found) == len(bodies)


async def test_what_cannot_be_asked_is_one_line(archive: ArchiveWorld) -> None:
    env = dict(archive.world.servers.dynamodb_env)
    code, output = await finished("operations.history", archive.table, "7", "--limit", "0", **env)
    assert code == 2
    assert "at least 1" in output
    code, output = await finished("operations.history", archive.table, "7", "--before", "zz", **env)
    assert code == 2
    assert "an event as it was shown" in output
    code, output = await finished("operations.history", archive.world.table, "7", **env)
    assert (code, output) == (
        1, f"error: table {archive.world.table} does not have the keys client_id, event; give the archive's\n",
    )  # fmt: skip
    code, output = await finished(
        "operations.history", archive.table, "7", **{**env, "AWS_ENDPOINT_URL_DYNAMODB": "garbage"}
    )
    assert code == 1
    assert len(output.splitlines()) == 1
