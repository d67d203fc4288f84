"""An archive of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.archive import ArchiveWorld, make_archive
from tests.support.world import World


@pytest.fixture
async def archive(world: World) -> AsyncIterator[ArchiveWorld]:
    async with make_archive(world) as archive:
        yield archive
