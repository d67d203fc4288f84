"""Names that all roles which answer requests share: queue group, dialect of their schemas, subjects of discovery."""

from typing import Any, Final

QUEUE_GROUP: Final = "q"

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""What the published schemas of requests and responses are written in."""


def discovery(service: str) -> tuple[str, ...]:
    """Return the subjects of `$SRV` to which a service subscribes (ADR-32), but for those with its instance's id."""
    return tuple(
        f"$SRV.{verb}{suffix}" for verb in ("PING", "INFO", "STATS") for suffix in ("", f".{service}", f".{service}.*")
    )


def schema(*required: str, **properties: Any) -> dict[str, Any]:
    """Return the JSON Schema of an object. Further properties are allowed."""
    needed = {"required": list(required)} if required else {}
    return {"$schema": DIALECT, "type": "object", **needed, "properties": properties}
