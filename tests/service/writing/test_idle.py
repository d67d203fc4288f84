"""When the archive takes its source for empty, and what it does while it cannot tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.runtime.errors import ServiceError
from service.sources.source import Backlog, Unreachable
from service.writing import idle
from service.writing.idle import Watch
from service.writing.ledger import Ledger
from tests.support.world import eventually

IDLE_S = 0.04


class Answers:
    """A source whose backlog is what comes next; the last one stays."""

    def __init__(self, *answers: Backlog | Exception) -> None:
        self._answers = list(answers)
        self.read = 0

    async def backlog(self) -> Backlog:
        self.read += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def nothing_logged_yet() -> Iterator[None]:
    idle._unknown._kinds.clear()
    yield
    idle._unknown._kinds.clear()


def watch(source: Any, ends: list[Any], ledger: Ledger[Any] | None = None) -> Watch:
    return Watch(source, ledger or Ledger(), IDLE_S, finish=lambda: ends.append("finished"), fail=ends.append)


@pytest.mark.parametrize("problem", [Unreachable("away"), KeyError("Attributes"), OSError("reset")])
async def test_a_backlog_that_is_not_known_keeps_the_task_with_one_warning(problem: Exception) -> None:
    ends: list[Any] = []
    source = Answers(problem)
    unknown = watch(source, ends)
    with capture_logs() as logs:
        running = asyncio.create_task(unknown.run())
        await eventually(lambda: source.read > 8, what="a backlog read again and again")
        assert not running.done()
        assert (unknown.backlog, ends, len(logs)) == (None, [], 1)
        source._answers[0] = Backlog(0)
        await asyncio.wait_for(running, 5)
    assert ends == ["finished"]


async def test_a_source_that_is_gone_ends_the_task() -> None:
    ends: list[Any] = []
    gone = ServiceError("the queue does not exist", "make it")
    await watch(Answers(Backlog(0), gone), ends).run()
    assert ends == [gone]


async def test_a_trickle_that_no_look_sees_keeps_the_task() -> None:
    """Each event comes after a look at the backlog, and is archived before the next one."""
    ends: list[Any] = []
    ledger = Ledger[Any]()

    class Trickle(Answers):
        flows = True

        async def backlog(self) -> Backlog:
            ledger.received += self.flows
            return await super().backlog()

    source = Trickle(Backlog(0))
    running = asyncio.create_task(watch(source, ends, ledger).run())
    await eventually(lambda: source.read > 40, what="ten times the idle time")
    assert not running.done()
    source.flows = False
    await asyncio.wait_for(running, 5)
    assert ends == ["finished"]
