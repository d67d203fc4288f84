"""Each request of a burst has one reply, whatever becomes of the others."""

from __future__ import annotations

import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from service.nats.client import NatsClient
from service.requests import burst
from service.requests.burst import OK, REPLY_LOST, Burst
from service.requests.errors import BadRequest, NotFound


@pytest.fixture(autouse=True)
def nothing_logged_yet() -> None:
    """Each failure is logged once a minute."""
    for failed in (burst._request_failed, burst._reply_failed):
        failed._kinds.clear()


class Made:
    """A burst over a client that is not connected: it keeps what is to be written."""

    def __init__(self, *replies: str) -> None:
        self.client = NatsClient(lambda _: None, lambda: None)
        self.client._max_pending_size = 1 << 20
        self.done: list[tuple[int, str, str, int]] = []
        self.burst = Burst(replies, 0, self.client.post_frames, self._note)

    def _note(self, _: Burst, count: int, outcome: str, *, error: str = "", lost: int = 0) -> None:
        self.done.append((count, outcome, error, lost))

    @property
    def written(self) -> bytes:
        return b"".join(self.client._pending)


async def test_each_gets_its_own_reply_in_one_write() -> None:
    made = Made("_INBOX.a", "_INBOX.b")
    assert made.burst.respond(["one", '{"name":"Zoë"}']) is True
    assert made.client._pending == ['PUB _INBOX.a 3\r\none\r\nPUB _INBOX.b 15\r\n{"name":"Zoë"}\r\n'.encode()]
    assert made.done == [(2, OK, "", 0)]
    assert (made.client.stats["out_msgs"], made.client.stats["out_bytes"]) == (2, 18)


async def test_the_first_reply_is_the_only_one() -> None:
    made = Made("_INBOX.x")
    assert made.burst.respond(["one"]) is True
    assert made.burst.respond(["two"]) is False
    made.burst.refuse(BadRequest("three"))
    assert made.written == b"PUB _INBOX.x 3\r\none\r\n"
    assert made.done == [(1, OK, "", 0)]


async def test_a_refusal_is_a_reply_to_all_that_are_left() -> None:
    made = Made("_INBOX.a", "_INBOX.b", "_INBOX.c")
    made.burst.take([1]).respond(["ok"])
    made.burst.refuse(BadRequest("no"))
    made.burst.refuse(BadRequest("again"))
    assert made.written.count(b"HPUB _INBOX.") == made.written.count(b"Nats-Service-Error-Code: 403\r\n") == 2
    assert b"HPUB _INBOX.b" not in made.written
    assert made.written.endswith(b'{"error":"no"}\r\n')
    assert made.done == [(1, OK, "", 0), (2, "BAD_REQUEST", "403:BAD_REQUEST", 0)]


async def test_replies_that_the_connection_does_not_take_are_lost_and_counted() -> None:
    made = Made("_INBOX.a", "_INBOX.b")
    made.client._status = Client.CLOSED
    refused = made.burst.take([0])
    assert made.burst.respond(["one"]) is False
    refused.refuse(NotFound("no such client"))
    assert made.done == [(1, REPLY_LOST, "", 1), (1, "NOT_FOUND", "404:NOT_FOUND", 1)]


async def test_a_refusal_to_no_inbox_is_sent_nowhere() -> None:
    made = Made("", "customer.balance.1", "_INBOX_service.x", "_INBOX.a")
    made.burst.refuse(BadRequest("no inbox"))
    assert made.written.count(b"HPUB ") == made.written.count(b"HPUB _INBOX.a ") == 1
    assert made.done == [(4, "BAD_REQUEST", "403:BAD_REQUEST", 0)]


async def test_work_that_fails_for_one_request_keeps_no_other_back() -> None:
    made = Made("_INBOX.a", "_INBOX.b", "_INBOX.c", "_INBOX.d")

    def work(item: str) -> str:
        if item == "bad":
            raise BadRequest("bad")
        return f"{1 // int(item)}"

    with capture_logs() as logs:
        results = made.burst.each(work, ["1", "bad", "0", "1"])
    assert results == ["1", "1"]
    assert list(made.burst.replies) == ["_INBOX.a", "_INBOX.d"]
    made.burst.respond(results)
    assert [outcome for _, outcome, _, _ in made.done] == ["BAD_REQUEST", "INTERNAL_ERROR", OK]
    assert b"HPUB _INBOX.b " in made.written
    assert b"HPUB _INBOX.c " in made.written
    assert b"division" not in made.written, "its cause is nobody's business"
    assert [(line["event"], line["log_level"]) for line in logs] == [("request failed", "error")]


@pytest.mark.parametrize("looked_up", [False, True])
async def test_a_failure_answers_those_that_are_left_and_the_log_says_what_failed(*, looked_up: bool) -> None:
    made = Made("_INBOX.a", "_INBOX.b", "_INBOX.c")

    def half(some: Burst) -> None:
        some.take([0]).respond(["ok"])
        raise ZeroDivisionError("as the test wants it")

    left = made.burst.looked_up(made.burst.replies) if looked_up else made.burst
    with capture_logs() as logs:
        left.attempt(half)
    assert made.done == [(1, OK, "", 0), (2, "INTERNAL_ERROR", "500:INTERNAL_ERROR", 0)]
    assert made.written.startswith(b"PUB _INBOX.a ")
    assert made.written.count(b"HPUB ") == 2
    assert [line["event"] for line in logs] == ["reply failed" if looked_up else "request failed"]


async def test_a_wrong_number_of_payloads_answers_no_request() -> None:
    made = Made("_INBOX.a", "_INBOX.b")
    with pytest.raises(ValueError, match="zip"):
        made.burst.respond(["one"])
    assert (made.written, made.done, len(made.burst.replies)) == (b"", [], 2)


async def test_two_requests_with_one_reply_subject_are_two() -> None:
    made = Made("_INBOX.a", "_INBOX.a", "_INBOX.a")
    singles = made.burst.singles()
    next(singles).respond(["1"])
    next(singles).refuse(BadRequest("2"))
    assert list(made.burst.replies) == ["_INBOX.a"], "what is not taken is left"
    made.burst.respond(["3"])
    assert [count for count, *_ in made.done] == [1, 1, 1]


async def test_a_reply_that_is_too_large_takes_no_other_with_it() -> None:
    made = Made("_INBOX.a", "_INBOX.b", "_INBOX.c")
    made.client._max_payload = 100
    with capture_logs() as logs:
        assert made.burst.respond(["one", "x" * 101, "three"]) is False
    assert made.written.startswith(b"PUB _INBOX.a 3\r\none\r\nHPUB _INBOX.b ")
    assert made.written.endswith(b"PUB _INBOX.c 5\r\nthree\r\n")
    assert [(count, outcome) for count, outcome, _, _ in made.done] == [(1, OK), (1, "INTERNAL_ERROR"), (1, OK)]
    assert [line["event"] for line in logs] == ["request failed"]
