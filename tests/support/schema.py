"""A published schema beside the code that decodes its requests."""

from __future__ import annotations

import json
from typing import Any

from service.requests.errors import BadRequest


def ecma(schema: Any) -> Any:
    """Return the schema for Python's `re`, whose `$` is before a last newline too; ECMA-262's is not."""
    if isinstance(schema, dict):
        return {
            name: rf"{part[:-1]}\Z" if name == "pattern" else ecma(part)
            for name, part in schema.items()
            if part != {"format": "date-time"}  # is another test's, by RFC 3339
        }
    return [ecma(part) for part in schema if part != {"format": "date-time"}] if isinstance(schema, list) else schema


def wire(body: object) -> str:
    """Return it as it comes from the wire: each byte a character."""
    return json.dumps(body).encode().decode("latin-1")


def is_taken(take: Any, body: object) -> bool:
    try:
        take(wire(body))
    except BadRequest:
        return False
    return True
