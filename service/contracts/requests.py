"""Names shared by all roles that answer requests: queue group, dialect of schemas, subjects of discovery."""

from typing import Any, Final

QUEUE_GROUP: Final = "q"

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""Dialect of the published schemas of requests and responses."""


def discovery(service: str) -> tuple[str, ...]:
    """Return the `$SRV` subjects to which a service subscribes (ADR-32); `*` stands for its instance's id."""
    return tuple(
        f"$SRV.{verb}{suffix}" for verb in ("PING", "INFO", "STATS") for suffix in ("", f".{service}", f".{service}.*")
    )


def schema(*required: str, **properties: Any) -> dict[str, Any]:
    """Return the JSON Schema of an object. Further properties are allowed."""
    needed = {"required": list(required)} if required else {}
    return {"$schema": DIALECT, "type": "object", **needed, "properties": properties}
