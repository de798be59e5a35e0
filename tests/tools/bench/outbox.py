"""`outbox`: how much of what people write is found on the relays that their lists (NIP-65) name, by how many are asked.

And how much sooner it is found, as each relay is asked first for those whose lists name it.

People are drawn from real relay lists where the corpus is present, else from lists of the same sizes. Copies get lost,
some are passed on to many relays, and one author in twenty writes where their list does not say.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence

from pipeline.nostr.address import InvalidAddress, parse_address
from tests.corpus import REAL, real
from tests.tools.bench import relay_list_ordering
from tests.tools.bench.report import Figure, Limit, PartReport
from tests.tools.network.world import Network

_SEED = 20_240
_PEOPLE = 20_000
_EVENTS_EACH = 5
_LOST_COPY = 0.1
_PASSED_ON = 0.02
_MANY = 35
_ELSEWHERE = 0.05
_ASKED = (1, 2, 3, 5)

Lists = Sequence[tuple[str, ...]]


def run(_: float, *, quick: bool) -> PartReport:
    """The part `outbox`."""
    rng = random.Random(_SEED)
    found = [] if REAL is None else real_lists()
    source = f"{len(found):,} real relay lists"
    if not found:
        found = _drawn_lists()
        source = "drawn relay lists (no corpus here)"
    people = rng.choices(found, k=_PEOPLE // (10 if quick else 1))
    popular = Counter(relay for relays in people for relay in relays)
    holders = [_holders(rng, relays, popular) for relays in people for _ in range(_EVENTS_EACH)]
    everything = Limit("all relays", 1.0)
    figures: list[Figure] = []
    for most in (*_ASKED, None):
        asked = [frozenset(_best(relays, popular, most)) for relays in people]
        hits = sum(not asked[number // _EVENTS_EACH].isdisjoint(held) for number, held in enumerate(holders))
        name = f"found with {most} relays of each author's list" if most else "found with the whole of each list"
        used = len(frozenset[str]().union(*asked))
        note = f"{used} relays asked, {sum(map(len, asked)) / len(asked):.1f} for each author"
        figures.append(Figure(name, hits / len(holders), "share", everything, note))
    mean = sum(map(len, holders)) / len(holders)
    sizes = sorted(map(len, people))
    notes = (
        f"{len(people):,} people drawn from {source}, {sizes[len(sizes) // 2]} relays each (median), {len(popular)} in "
        f"all; {len(holders):,} events, {mean:.1f} copies each",
    )
    return PartReport("outbox", (*figures, *relay_list_ordering.figures(quick=quick)), notes)


def real_lists() -> list[tuple[str, ...]]:
    """The relays that authors of the corpus say they write to."""
    found = []
    for event in map(json.loads, real().event_lines()):
        if event["kind"] == 10002:
            relays = tuple(dict.fromkeys(_written_to(event["tags"])))
            if relays:
                found.append(relays)
    return found


def _written_to(tags: Sequence[Sequence[str]]) -> list[str]:
    found = []
    for tag in tags:
        if len(tag) > 1 and tag[0] == "r" and tag[2:3] != ["read"]:
            try:
                found.append(parse_address(tag[1]).url)
            except InvalidAddress:
                continue
    return found


def _drawn_lists() -> list[tuple[str, ...]]:
    network = Network.make(_SEED, relays=1_000, people=2_000, users=0, wanted=0)
    return [tuple(f"r{relay}" for relay in person.relays) for person in network.people]


def _best(relays: Sequence[str], popular: Counter[str], most: int | None) -> Sequence[str]:
    """Those of a list that most others name too: fewer connections serve more people."""
    return sorted(relays, key=lambda relay: -popular[relay])[:most]


def _holders(rng: random.Random, relays: Sequence[str], popular: Counter[str]) -> frozenset[str]:
    everywhere, weights = list(popular), list(popular.values())
    if rng.random() < _ELSEWHERE:
        relays = rng.choices(everywhere, weights, k=2)
    kept = {relay for relay in relays if rng.random() >= _LOST_COPY} or set(relays[:1])
    if rng.random() < _PASSED_ON:
        kept.update(rng.choices(everywhere, weights, k=_MANY))
    return frozenset(kept)
