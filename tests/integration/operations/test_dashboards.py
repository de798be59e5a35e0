"""The dashboard and the alert rules speak of metrics and labels that a running service shows."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from pipeline.server.host_collector import HostCollector
from pipeline.store.host_counts import HostCount
from pipeline.store.hosts import HostState
from tests.factories.events import authors
from tests.fakes.behaviour import Behaviour, OkRule
from tests.fakes.child import Child
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.fakes.relay import ScriptedRelay
from tests.fakes.scrape import Scrape
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import PATIENCE_S, until

DEPLOY = Path(__file__).resolve().parents[3] / "pipeline" / "deploy"
ALERTS = DEPLOY / "alerts.yml"
# What the contract spells otherwise than the Prometheus naming rules would have it.
CONTRACT_NAMES = {
    "application_handler_calls_duration",
    "application_handler_calls_total",
    "events_sent_to_relay_counter",
    "notice_type_total",
    "received_events_counter",
    "relay_connection_disconnections_counter",
    "relay_connection_received_messages_counter",
    "relay_connection_reconnections_counter",
    "relay_connection_state_gauge",
    "relay_connection_subscriptions_gauge",
    "relay_downloader_gauge",
    "relay_rate_limit_backoff_ms_gauge",
    "stored_relay_addresses_gauge",
    "version",
}
# Prometheus itself adds them to all that it scrapes.
PROMETHEUS_LABELS = {"job", "instance"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?(?=\s*(\()?)")
_WORDS = {"and", "or", "unless", "bool", "offset"}

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def dashboard_expressions() -> list[str]:
    """Every expression of the dashboard."""
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def alert_expressions() -> list[str]:
    """Every expression of the alert rules."""
    return re.findall(r"^\s+expr: (.+)$", ALERTS.read_text(), re.MULTILINE)


EXPRESSIONS = dashboard_expressions() + alert_expressions()


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression with the labels that are asked of them."""
    plain = _STRING.sub("0", expression)
    grouped = {name.strip() for group in _GROUPING.findall(plain) for name in group.split(",") if name.strip()}
    for match in _SELECTOR.finditer(_GROUPING.sub(" ", re.sub(r"\[[^]]*\]|\boffset \w+", "", plain))):
        name, matchers, call = match.groups()
        if call or name in _WORDS:
            continue
        yield name, {*re.findall(r"([a-zA-Z_]+)\s*(?:=~|!~|!=|=)", matchers or ""), *grouped}


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """What a service shows to which everything has happened that has a metric."""
    now = int(time())
    made = authors(17, 5)
    profiles = [author.sign("{}", kind=0, created_at=now - 60) for author in made]
    # Of no use to anybody.
    stray = made[0].sign("hello", created_at=now - 30)
    # Not for the target relay.
    note = made[1].sign("hello", created_at=now - 30)
    target_behaviour = Behaviour(ok_rules=(OkRule(reason="error: busy", times=1),))
    directory = tmp_path_factory.mktemp("watched")
    with ScriptedRelay(events=[*profiles, stray, note]) as relay, ScriptedRelay(target_behaviour) as target:
        env = settings(relays=[relay.url], target=target.url, EVENTS_CRAWLERS="1")
        with EventService(directory, env) as service:
            service.register(made[1])
            service.wait_metric("events_sent_to_relay_counter", lambda sent: sent >= len(profiles))
            service.wait_metric("event_service_sink_ignored_total", lambda ignored: ignored >= 1)
            relay.shout('["NOTICE","rate limited"]')
            service.wait_metric("notice_type_total", lambda notices: notices >= 1)
            relay.drop()
            service.wait_metric("relay_connection_reconnections_counter", lambda number: number >= 1)
            (sweeper,) = service.stages("sweeper")
            os.kill(sweeper.pid, signal.SIGKILL)
            service.wait_metric("event_service_stage_exits_total", lambda number: number >= 1)
            service.wait_healthy()
            hosts = of_hosts()
            wanted = {name for expression in EXPRESSIONS for name, _ in selectors(expression)} - hosts.names()
            # Some are shown from the first time on that they count something.
            until(lambda: wanted <= service.scrape().names(), lambda: wanted - service.scrape().names())
            return Scrape(service.scrape().text + hosts.text)


def of_hosts() -> Scrape:
    """What home shows beside, where other hosts crawl for it."""
    state = HostState("fra1", "1.0.0", False, 1, 0, 0, 0, 0, 1, 1)
    dropped = HostCount("fra1", "tally", (("slot", "crawler-0"), ("what", "discarded"), ("reason", "duplicate")), 2)
    registry = CollectorRegistry()
    registry.register(HostCollector([state], [dropped], [], 2))
    return Scrape(generate_latest(registry).decode())


def test_there_is_something_to_test() -> None:
    assert len(dashboard_expressions()) > 30
    assert len(alert_expressions()) == ALERTS.read_text().count("- alert:") > 10


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_is_shown(expression: str, scrape: Scrape) -> None:
    found = list(selectors(expression))
    assert found
    for name, labels in found:
        samples = scrape.samples(name)
        assert samples, f"{name} is not shown"
        assert labels - PROMETHEUS_LABELS <= set(samples[0].labels), (name, samples[0].labels)


def test_label_values_that_alerts_ask_for_are_real(scrape: Scrape) -> None:
    """A label matcher that never matches is an alert that never fires."""
    slots = {sample.labels["slot"] for sample in scrape.samples("event_service_heartbeat_age_seconds")}
    assert set(re.findall(r'slot="([^"]+)"', ALERTS.read_text())) <= slots
    queues = {sample.labels["queue"] for sample in scrape.samples("event_service_queue_length")}
    asked = "|".join(re.findall(r'queue=~?"([^"]+)"', ALERTS.read_text())).split("|")
    assert all(any(re.fullmatch(pattern, queue) for queue in queues) for pattern in asked)
    assert all(any(re.fullmatch(pattern, queue) for pattern in asked) for queue in queues)


def test_legends_name_labels_that_are_shown(scrape: Scrape) -> None:
    for panel in json.loads((DEPLOY / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            ((name, grouped), *_) = selectors(target["expr"])
            # What is grouped by shows only that.
            shown = grouped if " by (" in target["expr"] else set(scrape.samples(name)[0].labels)
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= shown, target


def test_the_dashboard_shows_the_chosen_instances_alone() -> None:
    for expression in dashboard_expressions():
        for name, labels in selectors(expression):
            assert labels >= PROMETHEUS_LABELS, (expression, name)


@promtool
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_takes_the_dashboards_expressions(tmp_path: Path) -> None:
    """As recording rules, since promtool parses nothing else."""
    rules = tmp_path / "rules.yml"
    quoted = (json.dumps(expression) for expression in dashboard_expressions())
    lines = [f"      - record: test:{number}\n        expr: {each}\n" for number, each in enumerate(quoted)]
    rules.write_text("groups:\n  - name: test\n    rules:\n" + "".join(lines))
    done = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_finds_nothing_odd_but_the_contracts_own_names(scrape: Scrape) -> None:
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=scrape.text, capture_output=True, text=True, check=False)
    # 3: it has findings; anything else would be text that it cannot read.
    assert done.returncode in (0, 3), done.stderr
    findings = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert [line for line in findings if line.split()[0] not in CONTRACT_NAMES] == []


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_scrapes_a_service_and_answers_the_dashboard(tmp_path: Path) -> None:
    """With the configuration that compose gives it."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    address = loopback_address()
    listen = f"{address}:{free_port(address)}"
    shutil.copy(ALERTS, tmp_path)
    with EventService(tmp_path / "service", settings()) as service:
        (tmp_path / "prometheus.yml").write_text(scraping(compose["configs"]["prometheus"]["content"], [service]))
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        with Child([*command, f"--web.listen-address={listen}"]):
            wait_listening(address, int(listen.rpartition(":")[2]), PATIENCE_S)
            until(lambda: is_ready(listen), str)
            until(lambda: [each["health"] for each in asked(listen, "targets")["activeTargets"]] == ["up"], str)
            rules = [rule for group in asked(listen, "rules")["groups"] for rule in group["rules"]]
            assert len(rules) == ALERTS.read_text().count("- alert:")
            assert {rule.get("lastError", "") for rule in rules} == {""}
            for expression in dashboard_expressions():
                chosen = expression.replace("$job", "event-service").replace("$instance", ".*")
                assert asked(listen, f"query?query={quote(chosen)}")["resultType"] in ("vector", "scalar")


def scraping(text: str, watched: Iterable[EventService]) -> str:
    """A configuration of Prometheus with these services as targets, each second, where it finds its own by name."""
    configuration = yaml.safe_load(text)
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"], job["relabel_configs"]
    job["static_configs"] = [{"targets": [f"{each.host}:{each.port}" for each in watched]}]
    configuration["global"] = dict.fromkeys(configuration["global"], "1s")
    return yaml.safe_dump(configuration)


def is_ready(listen: str) -> bool:
    """Whether Prometheus has read what it keeps."""
    try:
        with urlopen(f"http://{listen}/-/ready", timeout=30) as answer:
            return bool(answer.status == 200)
    except HTTPError:
        return False


def asked(listen: str, what: str) -> dict[str, Any]:
    """What Prometheus answers; fails if it has an error."""
    with urlopen(f"http://{listen}/api/v1/{what}", timeout=30) as answer:
        said = json.loads(answer.read())
    assert said["status"] == "success", said
    found: dict[str, Any] = said["data"]
    return found


@promtool
def test_every_alert_fires_when_it_should_and_not_before() -> None:
    cases = Path(__file__).with_name("alerts_test.yml")
    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text())) == set(
        re.findall(r"alertname: (\w+)", cases.read_text())
    )
    done = subprocess.run(["promtool", "test", "rules", str(cases)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
