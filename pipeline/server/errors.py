"""Errors that strangers may be able to cause: all are counted, few are written down."""

import logging
from typing import Final

from pipeline.process.clock import Clock
from pipeline.process.logs import Logger
from pipeline.process.metrics import Metrics
from pipeline.process.rate import Rate, TokenBucket

_STAGE: Final = "server"
# Enough to see what is wrong; tracebacks are long.
_TRACEBACKS: Final = Rate(5, 5)


class ErrorLog:
    """Log that counts errors and has tracebacks of the first; used by the event loop alone."""

    def __init__(self, log: Logger, clock: Clock, metrics: Metrics) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._bucket = TokenBucket(_TRACEBACKS, clock.monotonic())

    def unexpected(self, kind: str, message: str, cause: BaseException | None, **fields: object) -> None:
        """Note an error of a `kind` out of a closed set."""
        self._metrics.stage_errors.labels(_STAGE, kind).inc()
        if not self._bucket.take(self._clock.monotonic()):
            return
        if cause is None:
            self._log.error(message, **fields)
        else:
            self._log.exception(message, cause=cause, **fields)


def library_logger(errors: ErrorLog) -> logging.Logger:
    """Return a logger for the websocket library alone: what it calls an error is noted, and nothing else."""
    logger = logging.Logger("websockets", logging.ERROR)
    logger.addHandler(_Forward(errors))
    return logger


class _Forward(logging.Handler):
    def __init__(self, errors: ErrorLog) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self._errors.unexpected("library", "websocket library", cause, detail=record.getMessage())
