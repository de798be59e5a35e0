"""Metrics of two hosts that crawl and of home: sums over all hosts are right, and healthy hosts raise no alert."""

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import time

import pytest
import yaml

from pipeline.hub import rendezvous
from pipeline.nostr.address import parse_address
from pipeline.process.clock import SystemClock
from pipeline.process.host_metrics import WITHHELD
from pipeline.store import users
from pipeline.store.schema import open_database
from tests.factories.events import SignedEvent, authors, forge_signature
from tests.fakes.child import Child
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.fakes.postgres import PostgresServer, hub_in, programs_or_skip
from tests.fakes.relay import ScriptedRelay
from tests.fakes.scrape import Scrape
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import PATIENCE_S, until
from tests.integration.operations.test_dashboards import ALERTS, DEPLOY, asked, is_ready, scraping

HOSTS = ("ams1", "fra1")
EVENTS = 300
SHARED = 100
FORGED = 7
(ALICE,) = authors(523, 1)
# Relays are quiet here once everything is fetched.
EXPECTED_ALERTS = {"EventServiceNoEvents"}
# The others are counted where a relay misbehaves.
SHOWN_AT_HOME = {
    "received_events_counter", "relay_connection_state_gauge", "relay_connection_received_messages_counter",
    "relay_downloader_gauge", "event_service_crawl_seconds_behind", "event_service_crawl_pages",
    "event_service_relay_first_seen_events", "event_service_registered_users", "event_service_wanted_authors",
    "stored_relay_addresses_gauge", "event_service_dials_waiting",
}  # fmt: skip


@dataclass
class _World:
    home: EventService
    edges: list[EventService]

    @property
    def all(self) -> list[EventService]:
        return [self.home, *self.edges]

    def delivered(self) -> int:
        return self.home.sink_path.read_bytes().count(b"\n") if self.home.sink_path.exists() else 0


def relay_for(host: str, events: list[SignedEvent]) -> ScriptedRelay:
    """A relay that this host is to crawl."""
    for _ in itertools.repeat(None, 100):
        relay = ScriptedRelay(events=events, address=loopback_address())
        if rendezvous.order(parse_address(relay.url).host_key, HOSTS)[0] == host:
            return relay
    raise AssertionError("no address is of this host")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_World]:
    folder = tmp_path_factory.mktemp("hosts")
    began = int(time()) - 600
    events = [ALICE.sign(f"{number}", kind=1, created_at=began + number) for number in range(EVENTS)]
    parts = [events[: (EVENTS + SHARED) // 2], events[(EVENTS - SHARED) // 2 :]]
    signed = [ALICE.sign(f"forged {number}", kind=1, created_at=began + number) for number in range(FORGED)]
    parts[0] += map(forge_signature, signed)
    with ExitStack() as stack:
        server = PostgresServer(programs_or_skip())
        stack.callback(server.close)
        server.start()
        hub = stack.enter_context(hub_in(server))
        relays = [stack.enter_context(relay_for(host, part)) for host, part in zip(HOSTS, parts, strict=True)]
        env = settings(relays=[each.url for each in relays], EVENTS_HUB=hub.home, EVENTS_ROLE="home")
        home = EventService(_made(folder / "home"), env)
        with open_database(home.database, SystemClock()) as database, database.write() as tx:
            users.register(tx, bytes.fromhex(ALICE.pubkey), SystemClock().now_ms())
        edges = []
        for host in HOSTS:
            env = settings(
                EVENTS_HUB=hub.add_host(host), EVENTS_ROLE="crawler", EVENTS_HOST=host, EVENTS_CRAWLERS="1",
                EVENTS_BACKFILL="2h",
            )  # fmt: skip
            edges.append(EventService(_made(folder / host), env))
        # First the hosts: of the first alone, all relays would be for a while.
        for each in (*edges, home):
            stack.enter_context(each)
        found = _World(home, edges)
        until(lambda: found.delivered() >= EVENTS, found.delivered)
        yield found


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.timeout(300)
def test_counts_of_all_hosts_add_up_to_the_event(world: _World) -> None:
    def wrong() -> list[str]:
        found = sums(world.home.scrape(), [each.scrape() for each in world.edges])
        return [text for text, is_right in found if not is_right]

    until(lambda: not wrong(), wrong)
    assert world.delivered() == EVENTS


def sums(home: Scrape, edges: list[Scrape]) -> Iterator[tuple[str, bool]]:
    """What must hold between counts, each in words with whether it does."""
    scrapes = [home, *edges]

    def of_all(stage: str, what: str, **labels: str) -> int:
        return round(sum(each.value(f"event_service_stage_{what}_total", stage=stage, **labels) for each in scrapes))

    for stage in ("crawler", "uplink", "hub", "saver", "forwarder"):
        taken = of_all(stage, "in")
        left = of_all(stage, "out") + of_all(stage, "discarded")
        yield f"{stage}: in {taken} = out + discarded {left}", taken == left > 0
    for giver, taker in itertools.pairwise(("crawler", "uplink", "hub", "saver", "forwarder")):
        given, taken = of_all(giver, "out"), of_all(taker, "in")
        yield f"{giver} out {given} = {taker} in {taken}", given == taken
    # Of the host itself, or by the ids that home let it know.
    duplicates = sum(of_all(stage, "discarded", reason="duplicate") for stage in ("hub", "crawler"))
    yield f"duplicates {duplicates}, at least {SHARED}", duplicates >= SHARED
    refused = of_all("crawler", "discarded", reason="invalid-signature")
    yield f"forged {refused}", refused >= FORGED
    for stage, outcome, what in (
        ("crawler", "in", "in"),
        ("crawler", "dropped", "discarded"),
        ("uplink", "out", "out"),
    ):
        said = round(home.value("event_service_host_events_total", stage=stage, outcome=outcome))
        yield f"home's {stage} {outcome} {said}", said == of_all(stage, what)
    received = round(sum(each.value("received_events_counter") for each in scrapes))
    yield f"received {received}", received >= of_all("crawler", "in")
    names = {each.labels.get("host") for each in home.samples("received_events_counter")}
    yield f"hosts that received: {names}", names == set(HOSTS)


def test_no_series_is_shown_by_two_hosts_or_twice_by_one(world: _World) -> None:
    shown = {each.directory.name: each.scrape() for each in world.all}
    for name, scrape in shown.items():
        series = Counter((each.name, *sorted(each.labels.items())) for each in scrape.samples())
        assert [each for each, count in series.items() if count > 1] == [], name
    for host in HOSTS:
        families = set(shown[host].types())
        assert not {each for each in families if each.removesuffix("_total") in WITHHELD}, host

    def missing() -> set[str]:
        return SHOWN_AT_HOME - {each.removesuffix("_total") for each in world.home.scrape().types()}

    until(lambda: not missing(), missing)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_healthy_hosts_raise_no_alert(world: _World, tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    address = loopback_address()
    listen = f"{address}:{free_port(address)}"
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "prometheus.yml").write_text(scraping(compose["configs"]["prometheus"]["content"], world.all))
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with Child([*command, f"--web.listen-address={listen}"]):
        wait_listening(address, int(listen.rpartition(":")[2]), PATIENCE_S)
        until(lambda: is_ready(listen), str)
        until(lambda: [each["health"] for each in asked(listen, "targets")["activeTargets"]] == ["up"] * 3, str)

        def alerts() -> set[str]:
            """Also those that wait for their time."""
            return {each["labels"]["alertname"] for each in asked(listen, "alerts")["alerts"]}

        until(lambda: "EventServiceDown" not in alerts(), alerts)
        assert alerts() <= EXPECTED_ALERTS
        known = asked(listen, "query?query=event_service_host_info")["result"]
        assert {each["metric"]["host"] for each in known} == set(HOSTS)
