"""Only an acknowledgement of our stream lets an event go."""

from __future__ import annotations

import orjson
import pytest

from service.customer.events.acks import Refused, Stored, read


def answer(body: object) -> str:
    """As it is on the wire, each byte a character."""
    return (body if isinstance(body, bytes) else orjson.dumps(body)).decode("latin-1")


OURS = "customer-balances"


@pytest.mark.parametrize(
    ("body", "sent", "says"),
    [
        ({"stream": OURS, "seq": 7}, 1, Stored(1)),
        ({"stream": OURS, "seq": 7, "duplicate": True}, 1, Stored(1)),
        ({"stream": OURS, "seq": 7, "batch": "y-1", "count": 1}, 1, Stored(1)),
        ({"stream": OURS, "seq": 7, "batch": "y-1", "count": 100}, 100, Stored(100)),
        ({"stream": OURS, "seq": 7, "batch": "y-1", "count": 3}, 100, Stored(3)),
        ({"stream": OURS, "seq": 7, "batch": "y-1", "count": 9}, 8, Refused("an acknowledgement of 9 events of 8")),
        ({"stream": OURS, "seq": 7, "batch": "y-1", "count": 0}, 8, Refused("an acknowledgement of 0 events of 8")),
        ({"stream": OURS, "seq": 7}, 100, Refused("the server takes no batches", takes_no_batches=True)),
        ({"stream": OURS, "error": {"err_code": 10205, "description": "disabled"}}, 9, Refused("disabled", True)),
        ({"stream": OURS, "error": {"err_code": 10208, "description": "unknown"}}, 9, Refused("unknown", False)),
        ({"stream": OURS, "error": "no"}, 1, Refused("no", False)),
        ({"stream": "other", "seq": 7}, 1, Refused("an acknowledgement, and not of stream customer-balances")),
    ],
)  # fmt: skip
def test_an_acknowledgement_is_read(body: object, sent: int, says: object) -> None:
    assert read(answer(body), "", sent) == says


def test_no_responders_is_a_stream_that_is_not_there() -> None:
    assert read("", "NATS/1.0 503\r\n\r\n", 1) == Refused("no stream takes the subject", False)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "ack", "seq": 0, "msgs": 100},
        {"type": "gap", "last_seq": 2, "seq": 4},
        {"type": "err", "seq": 4, "error": {"code": 400}},
        {"type": "io.nats.jetstream.api.v1.stream_info_response", "stream": OURS, "config": {}},
        {"type": "io.nats.jetstream.api.v1.stream_info_response", "error": {"code": 404, "description": "forged"}},
        {"balance": 7120},
        {},
        [],
        b"",
        b"done",
        b"\xff",
    ],
)
def test_anything_else_is_not_an_ack(body: object) -> None:
    assert read(answer(body), "", 1) is None
    assert read(answer(body), "", 100) is None
