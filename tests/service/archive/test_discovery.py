"""The archive answers `$SRV` to inboxes alone, and to no role's own."""

from __future__ import annotations

import pytest

from service.contracts import archive as archive_contract
from service.contracts import customer, queue
from service.nats.srv import OWN
from tests.support.archive import ArchiveWorld
from tests.support.world import statistics

REFUSED = (
    *(f"{prefix}acks.1" for prefix in OWN),
    "customer.balance.1",
    "$KV.config.seed",
)


def test_the_roles_inboxes_are_known() -> None:
    prefixes = (customer.INBOX_PREFIX, archive_contract.INBOX_PREFIX, queue.INBOX_PREFIX)
    assert tuple(f"{prefix}." for prefix in prefixes) == OWN


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_what_is_no_requesters_inbox_gets_nothing(archive: ArchiveWorld, verb: str) -> None:
    async with archive.task():
        nc = archive.admin._nc
        heard = await nc.subscribe(">")
        await nc.flush()
        for reply in REFUSED:
            await nc.publish(f"$SRV.{verb}", b"", reply=reply)
        await statistics(nc, 1, verb=verb, name=archive_contract.SERVICE_NAME)  # behind the others
        subjects = set()
        while heard.pending_msgs:
            subjects.add((await heard.next_msg(timeout=1)).subject)
        await heard.unsubscribe()
    assert f"$SRV.{verb}" in subjects, "all is heard"
    assert not subjects & set(REFUSED)
