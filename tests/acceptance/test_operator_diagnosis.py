"""Five planted faults, each found and explained from the page, and again from the command line alone."""

import html
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import time

import pytest

from pipeline.store import inbox
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from tests.factories.events import Author
from tests.fakes.behaviour import Behaviour, Refusal
from tests.fakes.pubsub import FakePubSub
from tests.fakes.pubsub_rules import Rule
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import until

POISON = b"\xee" * 32


@pytest.fixture
def refusing() -> Iterator[ScriptedRelay]:
    with ScriptedRelay(Behaviour(refusals=(Refusal(reason="restricted: pay first"),))) as relay:
        yield relay


@pytest.fixture
def dense() -> Iterator[ScriptedRelay]:
    """More events of one author in one second than it gives at once."""
    author = Author.from_seed(1, 1)
    second = int(time()) - 300
    events = [author.sign(f"note {number}", kind=1, created_at=second) for number in range(60)]
    with ScriptedRelay(Behaviour(cap=20), events=events) as relay:
        yield relay


@pytest.fixture
def pubsub() -> Iterator[FakePubSub]:
    with FakePubSub(rules=[Rule(status="PERMISSION_DENIED", detail="User not authorized.")]) as fake:
        yield fake


def run(service: EventService, *arguments: str) -> str:
    """What a command prints, in the settings of the service."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, env=service.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def shown(service: EventService) -> str:
    """The page's text, as a browser would have it."""
    path = "/" + run(service, "status", "--url").strip().rpartition("/")[2]
    status, body = service.get(path, {"Accept": "text/html"})
    assert status == 200
    body = re.sub(r"<(style|script)>.*?</\1>", "", body, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def tell(service: EventService, words: str) -> list[str]:
    """Page and `status`, each when it first has `words`, within a minute."""
    seen = ["", ""]

    def both() -> bool:
        # Kept, since it may be gone at the next look.
        if not re.search(words, seen[0]):
            seen[0] = shown(service)
        if not re.search(words, seen[1]):
            seen[1] = run(service, "status")
        return all(re.search(words, text) for text in seen)

    until(both, lambda: (words, *seen))
    return seen


def plant(service: EventService) -> None:
    """An event that cannot be saved, and a process that stands still; the relays and the sink are faulty by birth."""
    assert service.register(Author.from_seed(1, 1))[0]
    with Database.open(service.database) as database, database.write() as tx:
        inbox.append(tx, [Arrival(POISON, b"{}", 1, int(time() * 1000), 1)])


@pytest.mark.long
def test_each_fault_is_told_with_its_cause_and_what_to_do(
    tmp_path: Path, refusing: ScriptedRelay, dense: ScriptedRelay, pubsub: FakePubSub
) -> None:
    env = settings(relays=[refusing.url, dense.url], pubsub=pubsub.address)
    with closing(EventService(tmp_path, env)) as service:
        service.start_ill()
        plant(service)
        told = (
            r"forwarder-0:? failing since \S+: sink pubsub is down: .*PERMISSION_DENIED",
            rf"refuses some requests: .*{refusing.url}/? \(.*restricted: pay first",
            r"inbox:? 1 event failed and to be retried, one \d times; so far: \w+",
            rf"gaps:? dense-second at {dense.url}/? \(.*\): it may hold more events of one second",
        )
        for words in told:
            tell(service, words)
        assert "failed" in run(service, "explain", POISON.hex())
        assert "restricted: pay first" in run(service, "relays", "show", refusing.url)
        assert "it may hold more events of one second" in run(service, "relays", "show", dense.url)
        assert "forwarder" in service.get("/_health")[1]

        (sweeper,) = service.stages("sweeper")
        sweeper.signal(signal.SIGSTOP)
        page, printed = tell(service, r"sweeper-0:? hung since \S+: has sent no heartbeat for \d+ s")
        assert "killed and restarted" in page
        assert "killed and restarted" in printed
        tell(service, r"sweeper-0:? crashed 1 time")
