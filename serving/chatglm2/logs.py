"""Logs: one JSON object a line on standard error, with request ids and never a prompt."""

import logging
import sys

import structlog


def configure() -> None:
    """Send structlog's events and the standard library's warnings to standard error."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
