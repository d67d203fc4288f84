"""Structured logs on standard error: JSON, or coloured on a terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog

from service import ENDED
from service.runtime.errors import ServiceError
from service.runtime.settings import Settings

REPEAT_S: Final = 60.0
MAX_KINDS: Final = 100


class Repeated:
    """Logs an event that may happen many times a second: each kind at once, then a count at most once a minute."""

    def __init__(self, log: Any, message: str) -> None:
        self._log = log
        self._message = message
        self._kinds: dict[str, tuple[float, int]] = {}
        """Kind -> when it was last logged, and how often it has happened since."""

    def error(self, kind: str, **fields: Any) -> None:
        self._write("error", kind, fields)

    def warning(self, kind: str, **fields: Any) -> None:
        self._write("warning", kind, fields)

    def _write(self, level: str, kind: str, fields: dict[str, Any]) -> None:
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            kind = "others"
        now = time.monotonic()
        logged_s, times = self._kinds.get(kind, (float("-inf"), 0))
        if now - logged_s < REPEAT_S:
            self._kinds[kind] = logged_s, times + 1
            return
        self._kinds[kind] = now, 0
        getattr(self._log, level)(self._message, **fields, **({"times": times + 1} if times else {}))


def writes_json(settings: Settings) -> bool:
    return _is_json(settings.log_format)


def last_line(error: ServiceError, settings: Settings | None) -> str:
    """Return the last line of a process that cannot start or continue; `settings` is None if they are invalid."""
    log_format = settings.log_format if settings else os.environ.get("LOG_FORMAT", "").lower() or None
    if not _is_json(log_format):
        return f"error: {error}"
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    said = {"problem": error.problem, "remedy": error.remedy}
    return _dump({**said, "event": ENDED, "level": "error", "timestamp": now})


def _is_json(log_format: str | None) -> bool:
    return log_format == "json" or (log_format != "console" and not sys.stderr.isatty())


def configure_logs(settings: Settings) -> None:
    """Set up structlog. Libraries' records, from level warning up, get the same form."""
    console = not writes_json(settings)
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump)]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered,
    ]))  # fmt: skip
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _dump(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
