"""Sinks of other packages: how they are chosen, made and held to what a sink promises."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import CannotStart
from pipeline.settings import parse
from pipeline.settings.choices import SinkKind, SinkSetting
from pipeline.settings.values import InvalidValue
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, SinkDown, Verdicts
from pipeline.sinks.plugins import PluginFault, PluginSink, load_sink
from tests.fakes.plugins import install

MESSAGES = [Message(bytes([number]) * 32, b"{}", 0) for number in range(3)]
MODULE = """
from pipeline.errors import CannotStart

class Works:
    max_messages = 7
    def __init__(self, argument):
        self.argument = argument
    def deliver(self, messages):
        return []
    def keep_alive(self):
        pass
    def close(self):
        pass

def refuses(argument):
    raise CannotStart("EVENTS_SINK: no such place")

def breaks(argument):
    raise OSError("no route")

def lacks(argument):
    return object()
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_plugin.py").write_text(MODULE)
    names = {"works": "Works", "refuses": "refuses", "breaks": "breaks", "lacks": "lacks", "gone": "missing"}
    targets = {name: f"a_plugin:{target}" for name, target in names.items()}
    install(tmp_path, "a_plugin", targets | {"pubsub": "a_plugin:Works", "none": "a_plugin:Works"})
    monkeypatch.syspath_prepend(tmp_path)


class Fixed:
    """A sink with the same answer to everything."""

    max_messages = 0

    def __init__(self, verdicts: object) -> None:
        self.verdicts = verdicts
        self.calls: list[str] = []

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        del messages
        if isinstance(self.verdicts, Exception):
            raise self.verdicts
        return self.verdicts  # type: ignore[return-value]

    def keep_alive(self) -> None:
        self.calls.append("keep_alive")

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("text", "argument"), [("works", ""), ("works:", ""), ("works:redis://h:1/0", "redis://h:1/0")]
)
def test_setting_names_an_installed_sink_and_its_argument(text: str, argument: str) -> None:
    setting = parse.sink(text)
    assert setting == SinkSetting(SinkKind.PLUGIN, name="works", argument=argument)
    assert str(setting) == text.removesuffix(":")


@pytest.mark.usefixtures("plugins")
def test_own_sinks_come_before_plugins_of_their_names() -> None:
    assert parse.sink("pubsub") == SinkSetting(SinkKind.PUBSUB)
    assert parse.sink("none") == SinkSetting(SinkKind.NONE)
    with pytest.raises(InvalidValue, match=r"one of the installed sinks \(breaks, gone, lacks, refuses, works\)"):
        parse.sink("pubsub:topic")


@pytest.mark.parametrize("text", ["plugin", "plugin:works", "kafka:host", "", "pubusb", "stdout:x"])
def test_setting_that_names_no_sink_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="the name of an installed sink"):
        parse.sink(text)


@pytest.mark.usefixtures("plugins")
def test_sink_is_made_of_the_argument() -> None:
    sink = load_sink("works", "there")
    assert sink.max_messages == 7


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("refuses", "EVENTS_SINK: no such place"),
        ("breaks", "EVENTS_SINK: sink breaks cannot be made: OSError: no route"),
        ("gone", "EVENTS_SINK: sink gone cannot be made: AttributeError"),
        ("lacks", "EVENTS_SINK: sink lacks has no max_messages, deliver, keep_alive, close"),
    ],
)
def test_plugin_that_makes_no_sink_ends_the_start(name: str, said: str) -> None:
    with pytest.raises(CannotStart) as refusal:
        load_sink(name, "")
    assert str(refusal.value).startswith(said)


def test_verdicts_are_passed_on() -> None:
    verdicts = (DELIVERED, Refused("no", dead_letter=True), None)
    assert PluginSink("x", Fixed(verdicts)).deliver(MESSAGES) == verdicts
    assert PluginSink("x", Fixed([Retry("later")] * 3)).deliver(MESSAGES) == (Retry("later"),) * 3


@pytest.mark.parametrize("verdicts", [[], [DELIVERED] * 2, [DELIVERED] * 4, [None] * 3, [DELIVERED, True, None]])
def test_verdicts_that_break_the_promise_are_a_fault(verdicts: list[object]) -> None:
    """Rather than a message that counts as delivered and is not."""
    with pytest.raises(PluginFault):
        PluginSink("x", Fixed(verdicts)).deliver(MESSAGES)


@pytest.mark.parametrize(
    ("verdicts", "kept"),
    [
        ([], []),
        ([DELIVERED, None], [DELIVERED, None]),
        ([DELIVERED] * 4, []),
        ([DELIVERED, True], []),
    ],
)
def test_sink_that_is_down_settles_no_more_than_it_was_given(verdicts: Verdicts, kept: Verdicts) -> None:
    """Verdicts that break the promise are none: all messages are offered again."""
    with pytest.raises(SinkDown, match="no answer") as error:
        PluginSink("x", Fixed(SinkDown("AWAY", "no answer", "wait", verdicts))).deliver(MESSAGES)
    assert list(error.value.verdicts) == list(kept)
    assert (error.value.reason, error.value.advice) == ("AWAY", "wait")


def test_all_else_is_the_plugins_own() -> None:
    inner = Fixed(SinkDown("AWAY", "no answer"))
    sink = PluginSink("x", inner)
    with pytest.raises(SinkDown):
        sink.deliver(MESSAGES)
    sink.keep_alive()
    sink.close()
    assert inner.calls == ["keep_alive", "close"]
    assert sink.max_messages == 1
