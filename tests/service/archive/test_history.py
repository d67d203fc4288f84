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
        code, output = await finished("service.archive.history", *arguments, **env)
        assert code == 0, output
        rows = [orjson.loads(line) for line in output.splitlines()]
        found += [int(row["balance"]) for row in rows]
        before = rows[-1]["event"]
    assert sorted(found, reverse=True) == [4, 3, 2, 1, 0]
    code, output = await finished("service.archive.history", archive.table, "7", "--limit", "2", **env)
    assert output.splitlines()[0].startswith("event_time")
    assert output.splitlines()[-1].startswith("older: --before '")
    code, output = await finished("service.archive.history", "not-there", "7", **env)
    assert code == 1
    assert output.startswith("error: ")
    assert len(output.splitlines()) == 1
