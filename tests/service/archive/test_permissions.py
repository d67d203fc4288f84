"""The user `archive` may do what the role does, and nothing else."""

from __future__ import annotations

import pytest

from service.contracts import archive as contract
from service.contracts.stream import STREAM
from tests.control_plane.test_permissions import watched
from tests.support.world import World


async def test_it_may_do_what_the_role_does(world: World) -> None:
    """The role's own run, with the same user, is in test_archive.py."""
    async with watched(world, contract.USER) as archive:
        for subject in contract.PUBLISH:
            assert await archive.may_publish(subject.replace("*", "x").replace(">", "1.1.1.1.0")), subject
        for subject in contract.SUBSCRIBE:
            assert await archive.may_subscribe(subject), subject


@pytest.mark.parametrize(
    "subject",
    [
        "customer.balance",
        "customer.balance.678",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        f"$JS.API.STREAM.MSG.GET.{STREAM}",
        f"$JS.API.STREAM.PURGE.{contract.DEAD_STREAM}",
        f"$JS.API.CONSUMER.CREATE.{STREAM}.other",
        f"$JS.API.CONSUMER.DELETE.{STREAM}.{contract.CONSUMER}",
        f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.other",
        f"$JS.ACK.{STREAM}.other.1.1.1.1.0",
        "$KV.config.seed",
        "archive.other",
    ],
)
async def test_it_may_publish_nothing_else(world: World, subject: str) -> None:
    async with watched(world, contract.USER) as archive:
        assert not await archive.may_publish(subject)


@pytest.mark.parametrize("subject", [">", "customer.balance.>", "_INBOX.>", "_INBOX_service.>", "$SRV.STATS.customer"])
async def test_it_hears_nothing_else(world: World, subject: str) -> None:
    async with watched(world, contract.USER) as archive:
        assert not await archive.may_subscribe(subject)
