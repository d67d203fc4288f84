"""Coalescing: nobody waits for a timer, nobody is forgotten, nobody gets another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from service.customer.lookup import EAGER_CALLS, MAX_WAIT_S, BatchLoader
from service.dynamodb.table import MAX_KEYS, Give, Outcome


class Reader:
    """Stands in for the table: answers when told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failing: set[str] = set()

    async def read(self, ids: Sequence[str], give: Give) -> None:
        self.batches.append(list(ids))
        await self.open.wait()
        if self.failing & set(ids):
            raise ConnectionError(ids)
        await give({key: None if key.startswith("unknown") else {"length": len(key)} for key in ids})


class Delivered:
    def __init__(self) -> None:
        self.to: dict[int, tuple[str, Outcome]] = {}

    async def deliver(self, key: str, outcome: Outcome, waiters: Sequence[int]) -> None:
        for waiter in waiters:
            assert waiter not in self.to, "delivered twice"
            self.to[waiter] = (key, outcome)


def make(max_keys: int = MAX_KEYS) -> tuple[Reader, Delivered, BatchLoader[int]]:
    reader, delivered = Reader(), Delivered()
    return reader, delivered, BatchLoader(reader.read, delivered.deliver, max_keys=max_keys)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from([*"abcdefgh", "unknown"]), st.booleans()), max_size=200),
    failing=st.sets(st.sampled_from("abc")),
    max_keys=st.integers(1, 5),
)
def test_every_waiter_is_delivered_its_own_keys_outcome_once(
    steps: list[tuple[str, bool]], failing: set[str], max_keys: int
) -> None:
    async def run() -> None:
        reader, delivered, lookup = make(max_keys)
        reader.failing = failing
        for waiter, (key, pause) in enumerate(steps):
            lookup.load(key, waiter)
            if pause:
                await asyncio.sleep(0)
        await lookup.drain()
        assert delivered.to.keys() == set(range(len(steps)))
        for waiter, (key, _) in enumerate(steps):
            answered, outcome = delivered.to[waiter]
            assert answered == key
            if not isinstance(outcome, ConnectionError):
                assert outcome == (None if key == "unknown" else {"length": 1})
                assert key not in failing
        for batch in reader.batches:
            assert len(batch) == len(set(batch)) <= max_keys

    asyncio.run(run())


async def test_a_lone_request_leaves_at_once() -> None:
    reader, delivered, lookup = make()
    lookup.load("7", 0)
    await turn()
    assert reader.batches == [["7"]]
    assert delivered.to == {0: ("7", {"length": 1})}


async def test_what_is_asked_in_one_turn_shares_a_call() -> None:
    reader, _, lookup = make()
    for waiter in range(50):
        lookup.load(str(waiter % 10), waiter)
    await turn()
    assert reader.batches == [[str(number) for number in range(10)]]


async def test_what_is_asked_in_one_turn_starts_one_call() -> None:
    reader, _, lookup = make()
    for waiter in range(50):
        lookup.load(str(waiter), waiter)
    assert len(lookup._calls) == 1
    await lookup.drain()
    assert len(reader.batches) == 1


async def test_the_end_of_a_call_starts_the_next_one_at_once() -> None:
    """And no sooner: four are in flight, the fifth waits for one of them, not for the timer."""
    gates = [asyncio.Event() for _ in range(6)]
    asked: list[list[str]] = []

    async def gated(ids: Sequence[str], give: Give) -> None:
        asked.append(list(ids))
        await gates[len(asked) - 1].wait()
        await give(dict.fromkeys(ids))

    delivered = Delivered()
    lookup = BatchLoader[int](gated, delivered.deliver)
    for number in range(6):
        lookup.load(str(number), number)
        await turn()
    assert asked == [["0"], ["1"], ["2"], ["3"]]
    gates[0].set()
    await turn()
    assert asked[4:] == [["4", "5"]]
    for gate in gates:
        gate.set()
    await lookup.drain()
    assert len(delivered.to) == 6


async def test_a_delivery_that_fails_keeps_no_other_back() -> None:
    reader, delivered, _ = make()

    async def deliver(key: str, outcome: Outcome, waiters: Sequence[int]) -> None:
        if key == "1":
            raise ZeroDivisionError
        await delivered.deliver(key, outcome, waiters)

    lookup = BatchLoader[int](reader.read, deliver)
    for number in range(3):
        lookup.load(str(number), number)
    await lookup.drain()
    assert delivered.to == {0: ("0", {"length": 1}), 2: ("2", {"length": 1})}


async def test_what_arrives_while_calls_are_out_forms_the_next_batch() -> None:
    reader, delivered, lookup = make()
    reader.open.clear()
    for number in range(EAGER_CALLS):
        lookup.load(f"first{number}", number)
        await turn()
    for number in range(30):
        lookup.load(f"later{number}", 100 + number)
        await turn()
    assert len(reader.batches) == EAGER_CALLS
    reader.open.set()
    await lookup.drain()
    assert [len(batch) for batch in reader.batches] == [1] * EAGER_CALLS + [30]
    assert len(delivered.to) == EAGER_CALLS + 30


async def test_a_full_batch_leaves_however_many_are_out() -> None:
    reader, _, lookup = make()
    reader.open.clear()
    for number in range(700):
        lookup.load(str(number), number)
    await turn()
    assert [len(batch) for batch in reader.batches] == [100] * 7, "AWS takes no more keys in a BatchGetItem"
    reader.open.set()
    await lookup.drain()


async def test_a_request_never_shares_a_call_that_left_before_it_asked() -> None:
    reader, _, lookup = make()
    reader.open.clear()
    lookup.load("7", 0)
    await turn()
    lookup.load("7", 1)
    await turn()
    assert reader.batches == [["7"], ["7"]]
    reader.open.set()
    await lookup.drain()


async def test_one_failing_batch_fails_only_its_own_requests() -> None:
    reader, delivered, lookup = make()
    reader.failing = {"bad"}
    lookup.load("bad", 0)
    lookup.load("with it", 1)
    await turn()
    lookup.load("good", 2)
    await lookup.drain()
    assert isinstance(delivered.to[0][1], ConnectionError)
    assert isinstance(delivered.to[1][1], ConnectionError)
    assert delivered.to[2] == ("good", {"length": 4})


async def test_a_batch_does_not_wait_for_calls_that_do_not_come_back() -> None:
    reader, delivered, lookup = make()
    reader.open.clear()
    for waiter in range(EAGER_CALLS):
        lookup.load(f"stalled {waiter}", waiter)
        await turn()
    lookup.load("late", 100)
    lookup.load("later", 101)
    await turn()
    assert len(reader.batches) == EAGER_CALLS, "it forms while they may come back"
    async with asyncio.timeout(5):
        while len(reader.batches) == EAGER_CALLS:
            await asyncio.sleep(MAX_WAIT_S / 5)
    assert reader.batches[-1] == ["late", "later"]
    reader.open.set()
    await lookup.drain()
    assert delivered.to.keys() == {*range(EAGER_CALLS), 100, 101}
