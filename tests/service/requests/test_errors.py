"""The error replies, as existing clients check for them: literals, because they are on the wire."""

from __future__ import annotations

import orjson

from service.requests.errors import ERRORS


def test_the_codes_on_the_wire() -> None:
    assert {(error.code, error.description) for error in ERRORS} == {
        ("403", "BAD_REQUEST"),
        ("404", "NOT_FOUND"),
        ("409", "CONFLICT"),
        ("409", "INSUFFICIENT_BALANCE"),
        ("503", "UNAVAILABLE"),
        ("500", "INTERNAL_ERROR"),
    }


def test_the_body_says_what_was_wrong() -> None:
    for error in ERRORS:
        assert orjson.loads(error("what was wrong").body) == {"error": "what was wrong"}
