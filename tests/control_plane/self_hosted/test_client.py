"""JetStream is missing in an account for a moment, while the server takes its JWT from another command."""

from __future__ import annotations

from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError

from tests.control_plane.conftest import OwnProgram


async def test_commands_wait_for_jetstream(own: OwnProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request finds nobody the first time, as it does in that moment."""
    request, missed = Client.request, set[str]()

    async def miss_first(self: Client, subject: str, *arguments: Any, **named: Any) -> Any:
        if subject.startswith("$JS.API.") and subject not in missed:
            missed.add(subject)
            raise NoRespondersError
        return await request(self, subject, *arguments, **named)

    monkeypatch.setattr(Client, "request", miss_first)
    await own.add("d1")
    assert "d1" in await own.done("device", "list")
    await own.done("device", "revoke", "d1")
    await own.done("status", "--with", "devices")
    kinds = {subject.split(".")[2] for subject in missed}
    assert kinds == {"CONSUMER", "STREAM"}
