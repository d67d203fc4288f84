"""How a lost connection is sought again."""

from __future__ import annotations

from urllib.parse import urlparse

import pytest
from nats.aio.client import Server

from service.runtime.connection import _next_server


@pytest.mark.parametrize(("reconnects", "longest_s"), [(0, 0.1), (3, 0.8), (5, 2.0), (1000, 2.0)])
def test_the_backoff_has_full_jitter_and_an_upper_bound(reconnects: int, longest_s: float) -> None:
    """Tasks that lost the server at the same moment must not come back at the same moment."""
    server = Server(urlparse("nats://127.0.0.1:4222"), reconnects=reconnects)
    waits = [_next_server([server], {})[1] for _ in range(50)]
    assert len(set(waits)) == 50
    assert 0 <= min(waits) < longest_s / 2 < max(waits) <= longest_s


def test_the_server_that_was_tried_least_is_next() -> None:
    tried, fresh = (Server(urlparse(f"nats://127.0.0.1:{port}"), reconnects=n) for port, n in ((1, 2), (2, 1)))
    assert _next_server([tried, fresh], {})[0] is fresh
