"""The archive answers `$SRV` to inboxes alone, and to no role's own."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from service import contracts
from service.__main__ import ROLES
from service.contracts.archive import SERVICE_NAME
from service.nats.connection import roundtrip
from service.nats.srv import OWN
from tests.support.archive import ArchiveWorld
from tests.support.world import statistics

REFUSED = (
    *(f"{prefix}acks.1" for prefix in OWN),
    "customer.balance.1",
    "$KV.config.seed",
)


def test_the_inboxes_of_every_role_are_known() -> None:
    modules = [import_module(f"service.contracts.{found.name}") for found in pkgutil.iter_modules(contracts.__path__)]
    prefixes = {f"{module.INBOX_PREFIX}." for module in modules if hasattr(module, "INBOX_PREFIX")}
    assert len(prefixes) == len(ROLES)
    assert prefixes == set(OWN)


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_what_is_no_requesters_inbox_gets_nothing(archive: ArchiveWorld, verb: str) -> None:
    async with archive.task():
        nc = archive.admin._nc
        heard = await nc.subscribe(">")
        await roundtrip(nc)
        for reply in REFUSED:
            await nc.publish(f"$SRV.{verb}", b"", reply=reply)
        await statistics(nc, 1, verb=verb, name=SERVICE_NAME)  # behind the others
        subjects = set()
        while heard.pending_msgs:
            subjects.add((await heard.next_msg(timeout=1)).subject)
        await heard.unsubscribe()
    assert f"$SRV.{verb}" in subjects, "all is heard"
    assert not subjects & set(REFUSED)
