"""Every way in which a relay may differ from the specification, each as a case with the events that bring it out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from pipeline.crawl.sync.asked_kinds import ALL_KINDS
from pipeline.nostr.kinds import REACTION
from pipeline.relay.frames import MAX_MESSAGE_BYTES
from tests.factories.events import SignedEvent, forge_content, forge_signature, malform
from tests.fakes.behaviour import (
    HONEST,
    PRESETS,
    AuthDemand,
    Behaviour,
    Filters,
    How,
    Interruption,
    Order,
    RateLimit,
    Refusal,
    Upgrade,
)
from tests.tools.completeness.world import World

_IN_EIGHT_SECONDS = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)

DEMANDING = ("kinds-demanded", "authors-demanded", "auth-restricted")
"""Cases of relays that refuse some form of filter for good."""

Given = Callable[[World, SignedEvent], bool]
Extra = Callable[[World], list[SignedEvent]]


_AUTH_ALONE = "ERROR: auth-required: requested filter requires authentication"
_AUTH_MATCHING = "auth-required: At least one matching event requires AUTH"


def _all(_: World, __: SignedEvent) -> bool:
    return True


def _none(_: World, __: SignedEvent) -> bool:
    return False


def _nothing(_: World) -> list[SignedEvent]:
    return []


@dataclass(frozen=True, slots=True)
class Case:
    """A behaviour; `given` says which events a patient client gets from it, `extra` makes events that bring it out.

    `arriving`: events that come while the relay is asked for pages, where its behaviour says so.

    `cannot`: of what it holds some is out of any client's reach, and the service must say so; with `loses` it is not
    known which. `slow`: takes minutes.
    """

    behaviour: Behaviour
    given: Given = _all
    extra: Extra = _nothing
    arriving: Extra = _nothing
    stored: int = 300
    cannot: bool = False
    loses: bool = False
    slow: bool = False

    @property
    def needs_extra(self) -> bool:
        """Whether events of its own bring it out."""
        return self.extra is not _nothing

    @property
    def gives_all(self) -> bool:
        """Whether a patient client gets everything that such a relay holds."""
        return self.given is _all and not self.cannot


def _without(*kinds: int) -> Given:
    return lambda _, event: event.kind not in kinds


def _kindless(filters: Filters) -> bool:
    return any("kinds" not in each for each in filters)


def _anonymous(filters: Filters) -> bool:
    return any("authors" not in each and 1 in each.get("kinds", [1]) for each in filters)


def _listed(_: World, event: SignedEvent) -> bool:
    """Whether it is of a kind that the service knows to ask for."""
    return event.kind in ALL_KINDS


def _no_mentioning_notes(world: World, event: SignedEvent) -> bool:
    return event.kind != 1 or world.is_by_wanted_author(event)


def _narrow_only(world: World, event: SignedEvent) -> bool:
    return world.is_by_wanted(event)


def _withheld_block(world: World) -> list[SignedEvent]:
    """More than three pages of what is withheld, above and between the rest."""
    return [
        *world.block(320, 1059, newest=world.now - 30),
        *world.block(150, 4, newest=world.now - 3000),
    ]


def _only_messages(filters: Filters) -> bool:
    return all(each.get("kinds") and set(each["kinds"]) <= {4, 1059} for each in filters)


def _high_mentions(world: World) -> list[SignedEvent]:
    """What mentions users, of kinds above and below 30000, as old as two hours."""
    kinds = (1, 7, 9735, 30000, 30023, 30311)
    return [
        world.strangers[n % len(world.strangers)].sign(
            f"{n}",
            kind=kinds[n % 6],
            created_at=world.now - 150 - 29 * n,
            tags=[("p", world.users[n % len(world.users)].pubkey), ("d", f"{n}")],
        )
        for n in range(200)
    ]


def _unlisted_kinds(world: World) -> list[SignedEvent]:
    return [world.event(world.now - 100 * n - 7, kind=1_700 + n, author=world.users[0]) for n in range(10)]


def _busy_second(world: World) -> list[SignedEvent]:
    return world.one_second(130, world.now - 1800)


def _busy_seconds(world: World) -> list[SignedEvent]:
    return [*world.one_second(130, world.now - 1800), *world.one_second(300, world.now - 3600)]


def _just_now(world: World) -> list[SignedEvent]:
    """What comes while pages are read, one in three dated back."""
    dates = (world.now, world.now, world.now - 300)
    return [world.event(dates[number % 3], author=world.wanted_author()) for number in range(60)]


def _solitary_second(world: World) -> list[SignedEvent]:
    return world.one_second(60, world.now - 1800, author=world.followees[0])


def _is_readable(_: World, event: SignedEvent) -> bool:
    return len(event.raw) <= MAX_MESSAGE_BYTES


def _is_whole(_: World, event: SignedEvent) -> bool:
    return event.kind != REACTION


def _spoil(field_name: str) -> Callable[[SignedEvent], SignedEvent]:
    return lambda event: event if event.kind != REACTION else malform(event, field_name)


def _oversized(world: World) -> list[SignedEvent]:
    """Events of 5 MiB among the others; one of them is all of a second."""
    return [
        world.wanted_author().sign("long", created_at=world.now - 600 - 600 * number, size=5 << 20)
        for number in range(3)
    ]


def _presets() -> Mapping[str, Case]:
    cases = {name: Case(behaviour) for name, behaviour in PRESETS.items()}
    # With its rate limit at full length a run would take an hour.
    cases["khatru"] = Case(Behaviour(cap=200, quarter_above_cap=True))
    cases["strfry-withholding"] = Case(
        PRESETS["strfry-withholding"] | Behaviour(cap=100), _without(4, 1059), _withheld_block
    )
    cases["nostr-rs"] = Case(PRESETS["nostr-rs"], _narrow_only, cannot=True)
    return cases


def _page_cases() -> Mapping[str, Case]:
    return {
        "cap-20": Case(Behaviour(cap=20)),
        "cap-quarter": Case(Behaviour(cap=80, quarter_above_cap=True)),
        "shuffled": Case(Behaviour(cap=60, order=Order.SHUFFLED)),
        "oldest-first": Case(Behaviour(cap=60, order=Order.OLDEST)),
        "arrival-order": Case(Behaviour(cap=60, order=Order.ARRIVAL), extra=_busy_second),
        "since-exclusive": Case(Behaviour(cap=30, since_exclusive=True), extra=_busy_second),
        "since-and-until-exclusive": Case(
            Behaviour(cap=30, since_exclusive=True, until_exclusive=True), extra=_busy_second
        ),
        "ignores-since-oldest-first": Case(Behaviour(cap=60, ignores_since=True, order=Order.OLDEST)),
        "until-exclusive": Case(Behaviour(cap=30, until_exclusive=True), extra=_busy_second),
        "ignores-since": Case(Behaviour(cap=60, ignores_since=True)),
        "ignores-until": Case(Behaviour(cap=60, ignores_until=True), stored=150),
        "zero-is-all": Case(Behaviour(cap=100, zero_limit_is_unlimited=True)),
        "shared-limit": Case(Behaviour(cap=60, shared_limit=True)),
        "live-in-pages": Case(Behaviour(cap=30, arrivals_a_page=3), extra=_busy_seconds, arriving=_just_now),
        "ignores-since-arrival": Case(Behaviour(cap=60, ignores_since=True, order=Order.ARRIVAL)),
        "ignores-until-oldest": Case(Behaviour(cap=60, ignores_until=True, order=Order.OLDEST), stored=150),
        "ignores-times": Case(Behaviour(cap=60, ignores_since=True, ignores_until=True), stored=150),
        "dense-second": Case(Behaviour(cap=50), extra=_busy_second),
        "dense-author": Case(Behaviour(cap=20), extra=_solitary_second, cannot=True, loses=True),
        "withheld": Case(Behaviour(cap=60, withheld_kinds=frozenset({4, 1059})), _without(4, 1059), _withheld_block),
        "withheld-unlisted": Case(
            Behaviour(cap=200, withheld_kinds=frozenset({4, 1059})),
            _without(4, 1059),
            lambda world: [*_withheld_block(world), *_unlisted_kinds(world)],
        ),
        "kinds-for-times": Case(Behaviour(kinds_for_times=True), _listed, _high_mentions),
        "holes-without-whole": Case(Behaviour(kinds_for_times=True, min_filter_score=1), _listed, _high_mentions),
        "short-lists": Case(Behaviour(most_kinds=10, most_tag_values=5), extra=_high_mentions),
        "first-value": Case(Behaviour(first_value_only=True), extra=_high_mentions),
        "withheld-alone": Case(
            Behaviour(
                cap=60,
                withheld_kinds=frozenset({4, 1059}),
                refusals=(Refusal(reason=_AUTH_ALONE, when=_only_messages),),
            ),
            _without(4, 1059),
            _withheld_block,
            cannot=True,
        ),
        "withheld-closed": Case(
            Behaviour(cap=60, withheld_kinds=frozenset({4, 1059}), closes_withheld=_AUTH_MATCHING),
            _without(4, 1059),
            lambda world: [*_withheld_block(world), *_unlisted_kinds(world)],
            cannot=True,
        ),
        "ids-closed": Case(Behaviour(cap=60, closes_ids=True)),
        "scan-timeout": Case(Behaviour(breaks_off_after=25)),
        "silent-refusal": Case(Behaviour(min_filter_score=2), _narrow_only, cannot=True),
    }


def _answer_cases() -> Mapping[str, Case]:
    return {
        "no-eose": Case(Behaviour(cap=100, eose=False), slow=True),
        "slow-eose": Case(Behaviour(cap=150, eose_delay_s=12.0), slow=True),
        "slow-answer": Case(Behaviour(answer_delay_s=33.0), stored=60, slow=True),
        "slow-events": Case(Behaviour(event_delay_s=0.02)),
        "eose-hint": Case(Behaviour(cap=60, eose_hint=True)),
        "copies": Case(Behaviour(copies=3, cap=60)),
        "forged-content": Case(Behaviour(forge=forge_content, cap=60)),
        "forged-signature": Case(Behaviour(forge=forge_signature, cap=60)),
        "garbage": Case(Behaviour(garbage=("no json", '["EVENT"]', '["EVENT","P1",{}]', "[]", "{}"), cap=60)),
        "malformed": Case(Behaviour(spoil=_spoil("tags"), cap=60), _is_whole, cannot=True),
        "malformed-times": Case(Behaviour(spoil=_spoil("created_at"), cap=60), _is_whole, cannot=True),
        "fragments": Case(Behaviour(fragment_bytes=100)),
        "compression": Case(Behaviour(compression=True)),
        "binary": Case(Behaviour(binary=True, compression=True, cap=60)),
        "oversized": Case(Behaviour(cap=60), _is_readable, _oversized, cannot=True),
        "oversized-compressed": Case(Behaviour(cap=60, compression=True), _is_readable, _oversized, cannot=True),
        "cut-reset": Case(Behaviour(cap=100, interruption=Interruption(20, How.RESET, times=3))),
        "cut-close": Case(Behaviour(cap=100, interruption=Interruption(20, How.CLOSE, "bye", times=2))),
        "cut-closed": Case(Behaviour(cap=100, interruption=Interruption(20, How.CLOSED, "error: busy", times=3))),
        "cut-notice": Case(Behaviour(cap=100, interruption=Interruption(20, How.NOTICE, "error: busy", times=3))),
        "cut-large": Case(Behaviour(interruption=Interruption(200, How.RESET, times=None)), stored=900, slow=True),
        "cut-silent": Case(Behaviour(cap=100, interruption=Interruption(20, How.SILENT, times=2)), slow=True),
        "endless-frame": Case(Behaviour(cap=100, interruption=Interruption(20, How.ENDLESS_FRAME, times=1)), slow=True),
        "gone-every-150": Case(Behaviour(cap=60, close_every_messages=150), stored=200, slow=True),
    }


def _refusal_cases() -> Mapping[str, Case]:
    # Another text than the default's, which would give way to any other behaviour put together with it.
    busy = "Subscription error: Maximum concurrent subscription count reached"
    return {
        "closed-first": Case(Behaviour(refusals=(Refusal(How.CLOSED, "error: shutting down", times=4),))),
        "closed-rate": Case(Behaviour(refusals=(Refusal(How.CLOSED, "rate-limited: slow down, please", times=4),))),
        "notice-rate": Case(Behaviour(refusals=(Refusal(How.NOTICE, "rate limited", times=3),)), slow=True),
        "silent-first": Case(Behaviour(refusals=(Refusal(How.SILENT, times=3),)), slow=True),
        "rate": Case(Behaviour(cap=60, rate=RateLimit(per_s=2.0, burst=10))),
        "rate-subs": Case(Behaviour(cap=60, rate=RateLimit(per_s=4.0, burst=12), max_subscriptions=6)),
        "rate-subs-closed": Case(
            Behaviour(
                cap=60,
                rate=RateLimit(4.0, 12, Refusal(How.CLOSED, "rate-limited: slow down")),
                max_subscriptions=6,
                subscriptions_refusal=Refusal(How.CLOSED, "error: too many subscriptions"),
            )
        ),
        "subs-notice": Case(Behaviour(max_subscriptions=3, subscriptions_refusal=Refusal(How.NOTICE, busy), cap=60)),
        "subs-closed": Case(
            Behaviour(
                max_subscriptions=2, subscriptions_refusal=Refusal(How.CLOSED, "error: too many subscriptions"), cap=60
            )
        ),
        "subs-silent": Case(
            Behaviour(max_subscriptions=2, subscriptions_refusal=Refusal(How.SILENT), cap=60), slow=True
        ),
        "subs-one": Case(Behaviour(max_subscriptions=1, subscriptions_refusal=Refusal(How.NOTICE, busy), cap=60)),
        "subs-one-silent": Case(
            Behaviour(max_subscriptions=1, subscriptions_refusal=Refusal(How.SILENT), cap=60), slow=True
        ),
        "filters-one": Case(Behaviour(max_filters=1, cap=60)),
        "filters-silent": Case(Behaviour(max_filters=1, filters_refusal=Refusal(How.SILENT), cap=60), slow=True),
        "items-50": Case(Behaviour(max_items=50, cap=60)),
        "frame-6000": Case(Behaviour(max_frame_bytes=6_000, cap=60), slow=True),
        "no-live": Case(Behaviour(live=False)),
        "adds-requests": Case(Behaviour(adds_requests=True, cap=60)),
        "lossy-live": Case(Behaviour(live_loses_every=3)),
        "first-filter-live": Case(Behaviour(live_first_filter=True, cap=60)),
        "kinds-demanded": Case(
            Behaviour(cap=60, refusals=(Refusal(reason="blocked: can't handle empty filters", when=_kindless),)),
            _listed,
            _unlisted_kinds,
            cannot=True,
        ),
        "authors-demanded": Case(
            Behaviour(
                cap=60,
                refusals=(
                    Refusal(reason="blocked: an author must be specified to get their kind:1 notes", when=_anonymous),
                ),
            ),
            _no_mentioning_notes,
            cannot=True,
        ),
        "upgrade-500": Case(Behaviour(upgrade=Upgrade(500, times=1))),
        "only-with-slash": Case(Behaviour(only_path="/relay//", cap=60)),
        "upgrade-503": Case(Behaviour(upgrade=Upgrade(503, (("Retry-After", "8"),), times=1))),
        "upgrade-429": Case(Behaviour(upgrade=Upgrade(429, (("Retry-After", _IN_EIGHT_SECONDS),), times=1))),
        "early-answers": Case(Behaviour(early_answers=3)),
        "auth": Case(Behaviour(auth=AuthDemand(), cap=60)),
        "auth-late": Case(Behaviour(auth=AuthDemand(on_connect=False), cap=60)),
        "auth-silent": Case(Behaviour(auth=AuthDemand(silent_success=True), cap=60)),
        "auth-restricted": Case(Behaviour(auth=AuthDemand(restricted="restricted: members only")), _none, cannot=True),
    }


def _more(member: str, most: int) -> Callable[[Filters], bool]:
    """Whether a list of some filter is longer than so much."""
    return lambda filters: any(len(each.get(member, ())) > most for each in filters)


def _zero(filters: Filters) -> bool:
    return any(each.get("limit") == 0 for each in filters)


def _is_large(filters: Filters) -> bool:
    """Whether some list is longer than a relay with narrow bounds takes, or there are many filters."""
    lists = (("authors", 20), ("kinds", 10), ("#p", 20))
    return len(filters) > 3 or any(_more(member, most)(filters) for member, most in lists)


def _long_live(filters: Filters) -> bool:
    """Whether a live request is larger than that."""
    return all(each.get("limit") in (0, 1) and "until" not in each for each in filters) and _is_large(filters)


def _scrapes(filters: Filters) -> bool:
    """Whether some filter asks for many events by kinds alone."""
    narrow = {"ids", "authors", "#p"}
    return any(narrow.isdisjoint(each) and each.get("limit", 500) > 20 for each in filters)


def _scrapes_hours(filters: Filters) -> bool:
    """Whether some filter asks for more than half an hour of many events by kinds alone."""
    return any(_scrapes([each]) and each.get("until", 1 << 40) - each.get("since", 0) > 1_800 for each in filters)


def _bytes(most: int) -> Callable[[Filters], bool]:
    return lambda filters: len(json.dumps(filters)) > most


def _limit_cases() -> Mapping[str, Case]:
    """Relays that bound one quantity each, and the ways in which they say so, or do not."""
    path = 'invalid: must be less than or equal to 20 kinds at "[2].kinds"'
    kinds = "ERROR: bad req: filter validation failed: too many kinds in filter: 4"
    few = "blocked: No more than 3 subscriptions are allowed at any one time"
    big = "ERROR: bad req: arr too big"
    many = "ERROR: bad req: filter validation failed: invalid number of filters: 4"
    return {
        "kinds-path": _refusing(Refusal(How.NOTICE, path, when=_more("kinds", 20))),
        "kinds-closed": Case(
            Behaviour(
                refusals=(Refusal(reason=kinds, when=_more("kinds", 3)),), max_filters=3,
                filters_refusal=Refusal(reason=many),
                cap=60,
            )
        ),
        "authors-unnamed": _refusing(Refusal(How.NOTICE, "REQ filters are not accepted", when=_more("authors", 20))),
        "authors-expensive": _refusing(Refusal(reason="blocked: query too expensive", when=_more("authors", 50))),
        "values-notice-eose": _refusing(Refusal(How.NOTICE_EOSE, "too many tag values", when=_more("#p", 2))),
        "authors-notice-eose": _refusing(Refusal(How.NOTICE_EOSE, "too many authors", when=_more("authors", 25))),
        "bytes-named": _refusing(Refusal(How.NOTICE, "message too large (40763 > 4096)", when=_bytes(4_096))),
        "subs-named": Case(
            Behaviour(max_subscriptions=3, subscriptions_refusal=Refusal(How.CLOSED, few), cap=60)
        ),
        "subs-exceeded": Case(
            Behaviour(
                max_subscriptions=3, subscriptions_refusal=Refusal(How.CLOSED, "Number of subscriptions exceeds limit"),
                cap=60,
            )
        ),
        "filters-big": Case(Behaviour(max_filters=2, filters_refusal=Refusal(How.CLOSED, big), cap=60)),
        "filters-nip11": Case(
            Behaviour(
                max_filters=3, filters_refusal=Refusal(How.SILENT), nip11={"limitation": {"max_filters": 3}}, cap=60
            )
        ),
        "zero-refused": _refusing(
            Refusal(How.NOTICE, 'invalid: "limit" must be greater than or equal to 1', when=_zero)
        ),
        "zero-notice": _refusing(Refusal(How.NOTICE, "invalid: bad filter", when=_zero)),
        "zero-closed": _refusing(Refusal(How.CLOSED, "invalid: bad filter", when=_zero)),
        "zero-eose": _refusing(Refusal(How.EOSE, when=_zero)),
        "zero-silent": _refusing(Refusal(How.SILENT, when=_zero)),
        "live-silent": _refusing(Refusal(How.SILENT, when=_long_live)),
        "live-unnamed": _refusing(Refusal(How.NOTICE, "REQ filters are not accepted", when=_long_live)),
        "all-unnamed": _refusing(Refusal(How.NOTICE, "REQ filters are not accepted", when=_is_large)),
        "live-without-eose": Case(Behaviour(live_eose=False, cap=60)),
        "live-refused": _refusing(Refusal(reason="blocked: no live subscriptions for strangers", when=_zero)),
        "scraper": _refusing(Refusal(reason="error: scraper", when=_scrapes)),
        "scraper-hours": _refusing(Refusal(reason="error: scraper", when=_scrapes_hours)),
        "nip11-slow": Case(Behaviour(nip11={"limitation": {"max_filters": 3}}, nip11_delay_s=8.0, cap=60)),
        "round-trip": Case(Behaviour(cap=20, answer_delay_s=0.1)),
        "deaf-at-first": Case(Behaviour(deaf_s=0.3, cap=60)),
        "paced": Case(Behaviour(pace_s=1.0, cap=60), stored=100, slow=True),
    }  # fmt: skip


def _refusing(refusal: Refusal) -> Case:
    return Case(Behaviour(refusals=(refusal,), cap=60))


@dataclass(frozen=True, slots=True)
class BehaviourMatrix:
    """The cases by name."""

    cases: Mapping[str, Case] = field(
        default_factory=lambda: {**_presets(), **_page_cases(), **_answer_cases(), **_refusal_cases(), **_limit_cases()}
    )

    def choose(self, names: str | None, *, slow: bool) -> dict[str, Case]:
        """The cases of these comma-separated names, or all; raises `KeyError` for an unknown one."""
        if names:
            return {name: self.cases[name] for name in names.split(",")}
        return {name: case for name, case in self.cases.items() if slow or not case.slow}


HONEST_CASE = Case(HONEST)
