"""Logging: one event per line on stderr, JSON where no person watches, and nothing secret in it.

Modules log by the standard library (`logging.getLogger(__name__)`) or structlog; both end here. Under systemd the journal keeps the lines.
"""

import logging
import logging.config
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

REDACTED = "[redacted]"
LEVELS = ("debug", "info", "warning", "error")
MAX_TEXT = 4000
_SECRET_KEY = re.compile(r"credential|secret|password|passwd|token|authorization|private_key|access_key", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"MUNGE:[A-Za-z0-9+/=]+:?"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?i:\b(?:bearer|token|password|secret|secret_access_key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]{6,}"
)


def configure_logging(component: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Set up logging for this process; a second call replaces the first. Raises ValueError for an unknown level."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _component(component),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.PositionalArgumentsFormatter(), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(out.isatty())],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("botocore", "boto3", "urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def redact(value: Any, depth: int = 0) -> Any:
    """Return a value for the log: without secrets, texts and collections bounded."""
    if isinstance(value, str):
        text = _SECRET_TEXT.sub(REDACTED, value)
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    if depth > 4:
        return "…"
    if isinstance(value, dict):
        return {key: REDACTED if _is_secret(key) else redact(item, depth + 1) for key, item in list(value.items())[:100]}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in list(value)[:100]]
    return value if value is None or isinstance(value, bool | int | float) else redact(str(value), depth + 1)


def _rendering(terminal: bool) -> list[Processor]:
    if terminal:
        renderer: Processor = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = structlog.processors.JSONRenderer()
    return [structlog.processors.format_exc_info, _without_secrets, renderer]


def _component(name: str) -> Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("component", name)
        return event

    return add


def _without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    untouched = {"timestamp", "level"}
    return {key: value if key in untouched else REDACTED if _is_secret(key) else redact(value) for key, value in event.items()}


def _is_secret(key: object) -> bool:
    return isinstance(key, str) and _SECRET_KEY.search(key) is not None
