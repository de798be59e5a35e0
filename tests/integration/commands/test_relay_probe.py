"""`event-service relays probe`, as an operator and as a relay's author use it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import time

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.commands.relay_probe import probe_relays
from pipeline.nostr.kinds import DELETION, TEXT_NOTE
from pipeline.probe.interview import Pace
from pipeline.process.clock import SystemClock
from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.limits import RelayLimits
from pipeline.store import relay_forms, relay_mentions, relay_status
from pipeline.store.relay_forms import FormChanges, FormCheck
from pipeline.store.schema import open_database
from tests.factories.events import Author
from tests.fakes.behaviour import STRFRY, STRFRY_WITHHOLDING, Behaviour, How, Refusal
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Published
from tests.integration.commands.operator import Operator

# Long enough for whatever answers at all; what says nothing is not waited for.
PACE = Pace(patience_s=60.0, watch_s=0.0, pause_s=0.0, settle_s=0.0)
NOW = int(time())
ALICE = Author.from_seed(12, 0)
EVENTS = [
    ALICE.sign(str(number), kind=(1, 7)[number % 2], created_at=NOW - 1000 - 60 * number, tags=[("p", ALICE.pubkey)])
    for number in range(9)
]
ESCAPES = "\x1b]0;pwned\x07\x1b[2J\u009b31m\u202e"


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENTS_")]:
        monkeypatch.delenv(name)


def test_words_of_a_relay_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    refusal = Refusal(How.CLOSED, f"blocked: {ESCAPES}", when=lambda filters: len(filters) > 1)
    document = {"software": ESCAPES, "version": ESCAPES, "limitation": {"max_filters": 3}}
    with ScriptedRelay(STRFRY | Behaviour(refusals=(refusal,), nip11=document), events=EVENTS) as relay:
        assert probe_relays((relay.url,), writes=False, as_json=False, pace=PACE)
    told, errors = capsys.readouterr()
    assert [each for each in told + errors if each != "\n" and not each.isprintable()] == []
    assert "two filters                      refused" in told
    assert "\\u001b[2J\\u009b31m\\u202e" in told


def test_json_has_each_line_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedRelay(STRFRY, events=EVENTS) as relay:
        assert probe_relays((relay.url,), writes=False, as_json=True, pace=PACE)
    (report,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert report["address"] == relay.url
    assert report["lines"]["page.order"]["value"] == "newest first"
    assert report["lines"]["limit.filters"] == {
        "value": 20, "is_least": False, "how": "CLOSED", "says": "ERROR: bad req: too many filters", "note": ""
    }  # fmt: skip
    unwritten = report["lines"]["live.note"]
    assert (unwritten["value"], unwritten["note"]) == (None, "needs --write")


def test_relay_that_is_not_there_fails_and_the_next_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedRelay() as gone:
        pass
    with ScriptedRelay(STRFRY, events=EVENTS) as relay:
        assert not probe_relays((gone.url, relay.url), writes=False, as_json=False, pace=PACE)
    told, errors = capsys.readouterr()
    assert f"{gone.url}: no connection" in errors
    assert "newest first" in told


def test_json_has_a_line_for_a_relay_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedRelay() as gone:
        pass
    assert not probe_relays((gone.url,), writes=False, as_json=True, pace=PACE)
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["address"] == gone.url
    assert line["error"]


def test_exit_codes_tell_of_usage_and_of_connections() -> None:
    with ScriptedRelay() as gone:
        pass
    failed = CliRunner().invoke(main, ["relays", "probe", gone.url])
    assert (failed.exit_code, "Traceback" in failed.output) == (1, False)
    assert CliRunner().invoke(main, ["relays", "probe", "ftp://x.example"]).exit_code == 2
    assert CliRunner().invoke(main, ["relays", "probe"]).exit_code == 2


def test_beside_a_database_it_tells_what_was_learned_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedRelay(STRFRY | Behaviour(until_exclusive=True), events=EVENTS) as relay:
        _learn(tmp_path / "events.db", relay.url)
        for name, value in Operator(tmp_path / "events.db").env.items():
            monkeypatch.setenv(name, value)
        assert probe_relays((relay.url,), writes=False, as_json=True, pace=PACE)
    lines = json.loads(capsys.readouterr().out)["lines"]
    learned = {name: line["note"] for name, line in lines.items() if name.startswith("learned.")}
    assert learned["learned.until_exclusive"] == "it goes by no; seen: exclusive"
    assert learned["learned.max_authors"] == "it goes by 50 (by refusal); seen: 1,000 or more"
    assert learned["learned.form authors/low"] == "it goes by holes; seen: whole"
    assert "learned.form mentions+kinds/low" not in learned


def _learn(path: Path, address: str) -> None:
    with open_database(path, SystemClock()) as database, database.write() as tx:
        relay_mentions.record_mention(tx, address, source="relay-list", author=1, is_user=False, now=1000 * NOW)
        limits = RelayLimits().narrowed(Dimension.AUTHORS, 50, Source.REFUSAL)
        relay_status.put_limits(tx, 1, limits.to_json())
        checks = (FormCheck("authors/low", "holes", NOW, 3), FormCheck("mentions+kinds/low", "whole", NOW, 3))
        relay_forms.put(tx, 1, FormChanges(checks))


@pytest.mark.parametrize(
    ("name", "value"), [("EVENTS_DATABASE_PATH", "/nonexistent/events.db"), ("EVENTS_MAX_RELAYS", "many")]
)
def test_settings_that_are_wrong_do_not_matter(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with ScriptedRelay(STRFRY, events=EVENTS) as relay:
        assert probe_relays((relay.url,), writes=False, as_json=True, pace=PACE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_probe_that_is_ended_takes_back_what_it_published(tmp_path: Path, number: signal.Signals) -> None:
    """Also when it is asked twice, and when it had no verdict yet on what it published."""
    with ScriptedRelay(STRFRY_WITHHOLDING) as relay:
        command = [sys.executable, "-m", "pipeline.cli", "relays", "probe", "--write", relay.url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
            relay.journal.wait_for(Published, lambda each: each.kind == TEXT_NOTE and bool(each.accepted))
            child.send_signal(number)
            child.send_signal(number)
            _, said = child.communicate(timeout=120)
        kept = {each.event_id for each in relay.journal.of(Published) if each.accepted and each.kind == TEXT_NOTE}
        back = {tag[1] for each in relay.stored() if each.kind == DELETION for tag in each.tags if tag[0] == "e"}
    assert (child.returncode, "Traceback" in said) == (1, False)
    assert kept
    assert kept <= back
