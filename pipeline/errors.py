"""The one root of every error that this project raises on purpose."""


class EventServiceError(Exception):
    """Something the service foresaw; its text is one clear line for an operator or a log."""


class CannotStart(EventServiceError):
    """A stage or the supervisor cannot run as configured; restarting it would not help (exit code 3)."""


class Outdated(EventServiceError):
    """What the process was started with is no longer so; it ends to be started again (exit code 1)."""


class NoRoom(EventServiceError):
    """A disk is full: the work can go on by itself once there is room."""
