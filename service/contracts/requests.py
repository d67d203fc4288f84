"""Names that all roles which answer requests share: the queue group, and the subjects of their discovery."""

from typing import Final

QUEUE_GROUP: Final = "q"


def discovery(service: str) -> tuple[str, ...]:
    """Return the subjects of `$SRV` to which a service subscribes (ADR-32), but for those with its instance's id."""
    return tuple(
        f"$SRV.{verb}{suffix}" for verb in ("PING", "INFO", "STATS") for suffix in ("", f".{service}", f".{service}.*")
    )
