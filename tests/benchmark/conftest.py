from __future__ import annotations

import pytest

from tests.support.world import World


@pytest.fixture
def world(world: World) -> World:
    """Let tasks add the rows that a load asks for: clients 1 to 1,000."""
    return world.seeded(1_000)
