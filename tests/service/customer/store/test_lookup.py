"""Coalescing: nobody waits for a timer, nobody is forgotten, nobody gets another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from service.customer.store.lookup import EAGER_CALLS, MAX_WAIT_S, BatchLoader, Read
from service.dynamodb.table import MAX_KEYS, Give, Outcome


class Reader:
    """Stands in for the table: answers when told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failing: set[str] = set()
        self.late: set[str] = set()
        """Keys that come in a second part, which fails if any of the batch's keys does."""

    async def read(self, ids: Sequence[str], give: Give) -> None:
        self.batches.append(list(ids))
        await self.open.wait()
        found = {key: None if key.startswith("unknown") else {"length": len(key)} for key in ids}
        first = {key: outcome for key, outcome in found.items() if key not in self.late | self.failing}
        if first:
            give(first)
            await asyncio.sleep(0)
        if self.failing & set(ids):
            raise ConnectionError(ids)
        if len(first) < len(found):
            give({key: outcome for key, outcome in found.items() if key not in first})


class Delivered:
    def __init__(self) -> None:
        self.to: dict[int, tuple[str, Outcome]] = {}

    def deliver(self, keys: Sequence[str], waiters: Sequence[int], outcomes: Mapping[str, Outcome]) -> None:
        for key, waiter in zip(keys, waiters, strict=True):
            assert waiter not in self.to, "delivered twice"
            self.to[waiter] = (key, outcomes[key])


class Loader(BatchLoader[int]):
    """Takes one key at a time, too."""

    def __init__(self, read: Read, delivered: Delivered, max_keys: int = MAX_KEYS) -> None:
        super().__init__(read, max_keys=max_keys)
        self._delivered = delivered

    def ask(self, *keys: str, waiter: int) -> None:
        """The waiters are numbered from `waiter` on."""
        self.load(keys, range(waiter, waiter + len(keys)), self._delivered.deliver)


def make(max_keys: int = MAX_KEYS) -> tuple[Reader, Delivered, Loader]:
    reader, delivered = Reader(), Delivered()
    return reader, delivered, Loader(reader.read, delivered, max_keys)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.lists(st.sampled_from([*"abcdefgh", "unknown"]), min_size=1, max_size=8), st.booleans()),
        max_size=60,
    ),
    failing=st.sets(st.sampled_from("abc")),
    late=st.sets(st.sampled_from("cdef")),
    max_keys=st.integers(1, 5),
)
def test_every_waiter_is_delivered_its_own_keys_outcome_once(
    steps: list[tuple[list[str], bool]], failing: set[str], late: set[str], max_keys: int
) -> None:
    async def run() -> None:
        reader, delivered, lookup = make(max_keys)
        reader.failing, reader.late = failing, late
        asked: list[str] = []
        for keys, pause in steps:
            lookup.ask(*keys, waiter=len(asked))
            asked += keys
            if pause:
                await asyncio.sleep(0)
        await lookup.drain()
        assert delivered.to.keys() == set(range(len(asked)))
        for waiter, key in enumerate(asked):
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
    lookup.ask("7", waiter=0)
    await turn()
    assert reader.batches == [["7"]]
    assert delivered.to == {0: ("7", {"length": 1})}


async def test_what_is_asked_in_one_turn_shares_a_call() -> None:
    reader, _, lookup = make()
    for waiter in range(50):
        lookup.ask(str(waiter % 10), waiter=waiter)
    await turn()
    assert reader.batches == [[str(number) for number in range(10)]]


async def test_what_is_asked_in_one_turn_starts_one_call() -> None:
    reader, _, lookup = make()
    for waiter in range(50):
        lookup.ask(str(waiter), waiter=waiter)
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
        give(dict.fromkeys(ids))

    delivered = Delivered()
    lookup = Loader(gated, delivered)
    for number in range(6):
        lookup.ask(str(number), waiter=number)
        await turn()
    assert asked == [["0"], ["1"], ["2"], ["3"]]
    gates[0].set()
    await turn()
    assert asked[4:] == [["4", "5"]]
    for gate in gates:
        gate.set()
    await lookup.drain()
    assert len(delivered.to) == 6


async def test_what_arrives_while_calls_are_out_forms_the_next_batch() -> None:
    reader, delivered, lookup = make()
    reader.open.clear()
    for number in range(EAGER_CALLS):
        lookup.ask(f"first{number}", waiter=number)
        await turn()
    for number in range(30):
        lookup.ask(f"later{number}", waiter=100 + number)
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
        lookup.ask(str(number), waiter=number)
    await turn()
    assert [len(batch) for batch in reader.batches] == [100] * 7, "AWS takes no more keys in a BatchGetItem"
    reader.open.set()
    await lookup.drain()


async def test_a_request_never_shares_a_call_that_left_before_it_asked() -> None:
    reader, _, lookup = make()
    reader.open.clear()
    lookup.ask("7", waiter=0)
    await turn()
    lookup.ask("7", waiter=1)
    await turn()
    assert reader.batches == [["7"], ["7"]]
    reader.open.set()
    await lookup.drain()


async def test_one_failing_batch_fails_only_its_own_requests() -> None:
    reader, delivered, lookup = make()
    reader.failing = {"bad"}
    lookup.ask("bad", waiter=0)
    lookup.ask("with it", waiter=1)
    await turn()
    lookup.ask("good", waiter=2)
    await lookup.drain()
    assert isinstance(delivered.to[0][1], ConnectionError)
    assert delivered.to[1] == ("with it", {"length": 7}), "read before the failure"
    assert delivered.to[2] == ("good", {"length": 4})


async def test_a_batch_does_not_wait_for_calls_that_do_not_come_back() -> None:
    reader, delivered, lookup = make()
    reader.open.clear()
    for waiter in range(EAGER_CALLS):
        lookup.ask(f"stalled {waiter}", waiter=waiter)
        await turn()
    lookup.ask("late", waiter=100)
    lookup.ask("later", waiter=101)
    await turn()
    assert len(reader.batches) == EAGER_CALLS, "it forms while they may come back"
    async with asyncio.timeout(5):
        while len(reader.batches) == EAGER_CALLS:
            await asyncio.sleep(MAX_WAIT_S / 5)
    assert reader.batches[-1] == ["late", "later"]
    reader.open.set()
    await lookup.drain()
    assert delivered.to.keys() == {*range(EAGER_CALLS), 100, 101}
