"""The commands in README and docs: each is one that the program takes, and those that end are run in their order."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.store import events, inbox, outbox, relays
from pipeline.store.events import Accepted
from pipeline.store.lease import DeadLetter
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.factories.events import Author
from tests.fakes.go_database import GoDatabase
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import settings
from tests.support.command_lines import arguments, complaint
from tests.support.stored import store_with_payloads

ROOT = Path(__file__).resolve().parents[3]
DOCS = ("README.md", "CONTRIBUTING.md", "pipeline/docs/operating.md", "pipeline/docs/developing.md")
PROGRAMS = {
    "echo",
    "sudo",
    "export",
    "mkdir",
    "tail",
    "bin/completeness",
    "bin/event-service",
    "bin/peers",
    "bin/siege",
    "bin/test",
    "event-service",
}
ENDLESS = {"supervise", "stage", "demo"}
# They need a PostgreSQL; tests/integration/hub runs them in their order.
OF_A_HUB = {"hub"}


def blocks(document: str) -> Iterator[str]:
    """The lines of shell in a document."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def own(document: str) -> list[list[str]]:
    """The arguments of each event-service in a document's shell."""
    found = (re.search(r"(?:^|&& |/)event-service (.*)", line) for line in blocks(document))
    return [arguments(match[1]) for match in found if match is not None]


@pytest.mark.parametrize("document", DOCS)
def test_every_line_of_shell_is_of_a_program_that_we_know(document: str) -> None:
    lines = list(blocks(document))
    assert lines
    assert [line for line in lines if line.split()[0] not in PROGRAMS] == []
    scripts = re.findall(r"(?<![\w/-])bin/[a-z-]+", (ROOT / document).read_text())
    assert [script for script in scripts if not (ROOT / script).exists()] == []


@pytest.mark.parametrize("document", DOCS)
def test_every_command_is_taken(document: str) -> None:
    """As far as its arguments."""
    assert {" ".join(given): complaint(given) for given in own(document) if complaint(given)} == {}


@pytest.mark.parametrize("document", DOCS)
def test_commands_in_running_text_are_there(document: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    named = set(re.findall(r"`event-service ([a-z-]+)", text))
    assert {name for name in named if complaint([name, "--help"])} == set()


@pytest.mark.parametrize("document", DOCS)
def test_links_lead_somewhere(document: str) -> None:
    found = re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text())
    assert [link for link in found if not (ROOT / document).parent.joinpath(link).exists()] == []


def _fill(path: Path) -> None:
    """A relay, an accepted event, and one that was given up."""
    event = Author.from_seed(1, 1).sign("x", kind=0, created_at=1_700_000_000)
    with open_database(path, SystemClock()) as database, database.write() as tx:
        relays.set_bootstrap(tx, ["wss://relay.example.com"], 1)
        accepted = [
            Accepted(1, b"\1" * 32, 5, 0, 1, event.raw.encode(), 1, 1, 1),
            Accepted(2, b"\2" * 32, 5, 0, 1, event.raw.encode(), 1, 1, 1),
        ]
        events.accept(tx, accepted, 1)
        store_with_payloads(tx, accepted)
        outbox.append(tx, SinkName.PUBSUB, [1], 1)
        (row,) = outbox.claim(tx, SinkName.PUBSUB, now=10, lease=1000, limit=1)
        outbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "too large for the topic")], 20)
        assert inbox.waiting(tx) == 0


def test_the_operators_commands_run_in_their_order(tmp_path: Path) -> None:
    _fill(tmp_path / "events.db")
    (tmp_path / "environment").touch()
    GoDatabase(tmp_path / "go.db").close()
    places = {
        "/etc/event-service/environment": str(tmp_path / "environment"),
        "/var/lib/nos-event-service/events.db": str(tmp_path / "go.db"),
        "/var/backups/": f"{tmp_path}/",
    }
    commands = [given for given in own("pipeline/docs/operating.md") if given[0] not in ENDLESS | OF_A_HUB]
    assert len(commands) > 10
    with ScriptedRelay() as relay:
        env = settings(relays=[relay.url], EVENTS_DATABASE_PATH=str(tmp_path / "events.db"), PATH="/usr/bin:/bin")
        for given in commands:
            real = [_put(word, places) for word in given]
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.cli", *real],
                env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            # There is a problem to tell: no stage runs, and no author is wanted whom an audit could ask for.
            assert done.returncode == (real[0] in ("status", "audit")), (real, done.stdout, done.stderr)


def _put(word: str, places: dict[str, str]) -> str:
    for place, real in places.items():
        word = word.replace(place, real)
    return word
