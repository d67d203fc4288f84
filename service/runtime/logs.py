"""Structured logs on standard error: JSON, or coloured on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

from service.runtime.settings import Settings


def writes_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format is None and not sys.stderr.isatty())


def configure_logs(settings: Settings) -> None:
    """Set up structlog, and the libraries' own records, from warnings up, in the same form."""
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
