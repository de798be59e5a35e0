"""Sinks that other packages bring: `EVENTS_SINK=NAME:ARGUMENT` names an entry point of the group `event_service.sinks`.

The entry point is a function that takes the argument, an empty text without one, and returns a `Sink`. It runs in the
forwarder's process alone, after the last fork, and its sink is used by one thread.
"""

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from pipeline.errors import CannotStart, EventServiceError
from pipeline.printable import count_of
from pipeline.settings.choices import SINK_GROUP
from pipeline.sinks.base import Delivered, Message, Refused, Retry, Sink, SinkDown, Verdicts


class PluginFault(EventServiceError):
    """A plugin that breaks the promise of `Sink`."""


class PluginSink:
    """Sink of a plugin, whose verdicts are checked: one too few would settle the wrong message."""

    __slots__ = ("_name", "_sink")

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return max(1, self._sink.max_messages)

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        """See `Sink.deliver`. Raises `PluginFault`: the messages are tried again, fewer at a time."""
        try:
            verdicts = tuple(self._sink.deliver(messages))
        except SinkDown as down:
            if len(down.verdicts) <= len(messages) and _are_verdicts(down.verdicts):
                raise
            raise SinkDown(down.reason, f"{down.detail} (its verdicts do not fit the messages)", down.advice) from down
        if len(verdicts) != len(messages):
            raise PluginFault(
                f"sink {self._name} has {count_of(len(verdicts), 'verdict')} on {count_of(len(messages), 'message')}"
            )
        if all(each is None for each in verdicts):
            raise PluginFault(f"sink {self._name} settled none of {count_of(len(messages), 'message')}")
        if not _are_verdicts(verdicts):
            raise PluginFault(f"sink {self._name} gave something else than verdicts")
        return verdicts

    def keep_alive(self) -> None:
        """See `Sink.keep_alive`."""
        self._sink.keep_alive()

    def close(self) -> None:
        """See `Sink.close`."""
        self._sink.close()


def _are_verdicts(verdicts: Verdicts) -> bool:
    return all(each is None or isinstance(each, Delivered | Refused | Retry) for each in verdicts)


def load_sink(name: str, argument: str) -> Sink:
    """Return the sink of this name. Raises `CannotStart` if the plugin cannot make one."""
    try:
        (found,) = entry_points(group=SINK_GROUP, name=name)
        made: Any = found.load()(argument)
    except CannotStart:
        raise
    except Exception as error:
        raise CannotStart(f"EVENTS_SINK: sink {name} cannot be made: {type(error).__name__}: {error}") from error
    if missing := [each for each in ("max_messages", "deliver", "keep_alive", "close") if not hasattr(made, each)]:
        raise CannotStart(f"EVENTS_SINK: sink {name} has no {', '.join(missing)}")
    return PluginSink(name, made)
