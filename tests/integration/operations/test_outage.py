"""Pub/Sub is away for long: what goes on meanwhile, what stands still, and what happens when it is back."""

from contextlib import closing
from pathlib import Path
from time import monotonic, time

from tests.factories.events import authors
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.pubsub_rules import Rule
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import PATIENCE_S, until, wait_state
from tests.oracle.delivery import DeliveryOracle

HIGH, LOW = 400, 300
FIRST, SECOND = 300, 900
PEOPLE = authors(71, FIRST + SECOND)


def test_an_outage_of_pubsub_is_nobody_elses(tmp_path: Path) -> None:
    """The target relay gets its share, the crawl goes on to the bound and no further, and after it nothing is lost."""
    oracle, now = DeliveryOracle(), int(time())
    events = [person.sign("{}", kind=0, created_at=now - 300 + number // 5) for number, person in enumerate(PEOPLE)]
    rules = [Rule(status="UNAVAILABLE")]
    with ScriptedRelay(events=events[:FIRST]) as relay, ScriptedRelay() as target, PubSubProcess(rules=rules) as pubsub:
        oracle.hold(relay.url, events)
        env = settings(
            relays=[relay.url],
            target=target.url,
            pubsub=pubsub.address,
            EVENTS_BACKPRESSURE_HIGH=f"{HIGH}",
            EVENTS_BACKPRESSURE_LOW=f"{LOW}",
        )
        with closing(EventService(tmp_path, env)) as service:
            service.start_ill()

            def queued(queue: str) -> float:
                return service.scrape().value("event_service_queue_length", queue=queue)

            # Below the bound the outage is felt by nobody but the forwarder.
            until(lambda: queued("outbox-pubsub") == FIRST, lambda: queued("outbox-pubsub"))
            until(lambda: len(target.stored()) == FIRST, lambda: len(target.stored()))
            # Beyond it the crawl stops reading; what it has taken reaches the target relay all the same.
            relay.publish(*events[FIRST : HIGH + 1])
            wait_state(service, relay, "backpressured")
            relay.publish(*events[HIGH + 1 :])
            until(lambda: queued("inbox") == queued("outbox-relay") == 0, lambda: queued("inbox"))
            until(lambda: len(target.stored()) == queued("outbox-pubsub"), lambda: len(target.stored()))
            held = queued("outbox-pubsub")
            assert HIGH < held < FIRST + SECOND
            assert pubsub.count == 0
            pubsub.set_rules()
            began = monotonic()
            pubsub.wait_count(len(events), 2 * PATIENCE_S)
            print(f"{held:.0f} held; {monotonic() - began:.1f} s from the return to the last of {len(events)}")
            until(lambda: len(target.stored()) == len(events), lambda: len(target.stored()))
            wait_state(service, relay, "connected")
            # Counted when the answer is there, which is after the event has come.
            service.wait_metric(
                "event_service_delivery_seconds_count", lambda count: count == len(events), sink="pubsub"
            )
            scrape = service.scrape()
            assert scrape.value("event_service_dead_rows") == 0
            assert scrape.value("event_service_sink_retries_total", sink="pubsub", reason="UNAVAILABLE") > 0
            assert scrape.value("event_service_sink_retries_total", sink="relay") == 0
            assert service.stop() == 0
        report = oracle.judge(pubsub.deliveries())
    assert report.exactly_once, report.text()
