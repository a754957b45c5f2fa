"""The log: one line of JSON for each thing that happened, never with anything of an image."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

LOGGER = logging.getLogger("defect_server")


class JsonFormatter(logging.Formatter):
    """``time``, ``level``, ``event``, and what else is known of the event."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": now(), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def now() -> str:
    """The time in UTC, such as ``2026-11-30T09:20:00.123Z``."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log(event: str, level: int = logging.INFO, **facts: Any) -> None:
    """Write an event."""
    LOGGER.log(level, event, extra={"facts": facts})


def start_log() -> None:
    """Send this log, and what uvicorn has to say, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in ((LOGGER.name, logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
