"""The crawler as the process that it is."""

import os
import sys

from tests.fakes.child import Child
from tests.fakes.relay import ScriptedRelay
from tests.integration.stages.support import World
from tests.integration.stages.test_crawler import profiles, wait_arrived

# The command itself; how its garbage is collected is told at its very end, by the same process.
CRAWLER = """
import atexit, gc, sys
from pipeline import cli
atexit.register(lambda: print("garbage", gc.isenabled(), *gc.get_threshold(), flush=True))
sys.argv = ["event-service", "stage", "crawler"]
cli.main()
"""


def test_garbage_is_looked_for_rarely_in_a_crawler_process(world: World) -> None:
    """Parsing makes many objects and no cycles: with Python's thresholds the collector takes more than the parser."""
    events = profiles(5)
    with ScriptedRelay(events=events) as relay:
        env = os.environ | world.env | {"EVENTS_BOOTSTRAP_RELAYS": relay.url, "EVENTS_CRAWLERS": "1"}
        with Child([sys.executable, "-c", CRAWLER], env=env) as child:
            wait_arrived(world, events, 60)
            child.process.terminate()
            found = child.wait_line(r"garbage (\w+) (\d+) (\d+) (\d+)", 60)
    is_enabled, *thresholds = found.groups()
    assert is_enabled == "True"
    youngest, middle, oldest = map(int, thresholds)
    assert youngest >= 50_000
    assert min(middle, oldest) >= 20
