"""What the archive has still to take, and nothing where it cannot be told."""

from __future__ import annotations

from typing import Any

import pytest
from nats.js import JetStreamContext

from service.customer.backlog import Backlog
from service.runtime.background import background
from service.runtime.cancel import cancel
from tests.support.archive import make_archive
from tests.support.world import World, eventually


async def test_an_answer_that_cannot_be_read_is_no_figure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.customer.backlog.POLL_S", 0.02)
    async with make_archive(world) as archive, world.client("service") as client:
        await archive.publish(3)
        backlog = Backlog(client)  # type: ignore[arg-type]
        running = background(backlog.run(), "backlog")
        try:
            await eventually(lambda: backlog.figures().get("ArchiveBacklog", (0, ""))[0] == 3, what="a figure")
            read = JetStreamContext.stream_info

            async def garbled(*_: Any) -> Any:
                raise ValueError("no JSON")

            monkeypatch.setattr(JetStreamContext, "stream_info", garbled)
            await eventually(lambda: backlog.figures() == {}, what="no figure")
            monkeypatch.setattr(JetStreamContext, "stream_info", read)
            await eventually(lambda: "ArchiveBacklog" in backlog.figures(), what="a figure again")
        finally:
            await cancel(running)
