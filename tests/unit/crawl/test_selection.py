"""Which relays are dialled, and by which crawler."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.crawl.selection import (
    TRIAL_MS,
    Selected,
    Selection,
    Skipped,
    crawler_of,
    fetching_lists,
    is_share_of,
    passed_over,
    select,
    share_of,
    tried_anew,
)
from pipeline.nostr.address import RelayAddress, parse_address
from pipeline.store.relay_candidates import RelayCandidate
from tests.fakes.socks import onion_host
from tests.support.seeds import seeds

SKIPPED = ("relay.nos.social", "127.0.0.1", "localhost", "nostr.band")


def candidate(address: str, *, bootstrap: bool = False, number: int = 1) -> RelayCandidate:
    return RelayCandidate(number, address, bootstrap, None, 0, 0, "{}")


def selection(
    *, relays: int = 100, per_host: int = 3, skip: tuple[str, ...] = SKIPPED, private: bool = False,
    ports: frozenset[int] = frozenset(), own: RelayAddress | None = None,
) -> Selection:  # fmt: skip
    return Selection(relays, per_host, skip, private, ports=ports, own=own)


def urls(chosen: list[Selected]) -> list[str]:
    return [each.address.url for each in chosen]


def chosen(*addresses: str, bootstrap: bool = False, **bounds: object) -> list[str]:
    candidates = [candidate(address, bootstrap=bootstrap, number=n) for n, address in enumerate(addresses)]
    return urls(select(candidates, selection(**bounds)))  # type: ignore[arg-type]  # keywords of `selection`


def test_the_best_come_first_up_to_the_bound() -> None:
    addresses = [f"wss://r{number}.example" for number in range(20)]
    assert chosen(*addresses, relays=7) == addresses[:7]
    assert chosen(*addresses, relays=20) == addresses


@pytest.mark.parametrize(
    "address",
    [
        "wss://relay.nos.social",
        "wss://relay.nos.social/path",
        "ws://relay.nos.social:8080",
        "wss://nostr.band",
        "wss://relay.nostr.band",
        "wss://deep.relay.nostr.band/x",
    ],
)
def test_hosts_of_the_skip_list_are_not_dialled(address: str) -> None:
    assert chosen(address) == []
    assert chosen(address, skip=()) == [address]


@pytest.mark.parametrize("address", ["wss://notnostr.band", "wss://nostr.band.example", "wss://relay-nos.social"])
def test_other_hosts_that_look_alike_are(address: str) -> None:
    """A suffix is whole labels."""
    assert chosen(address) == [address]


@pytest.mark.parametrize("address", ["wss://relay.nos.social", "ws://127.0.0.1:7000", "ws://10.1.2.3"])
def test_bootstrap_relays_are_exempt(address: str) -> None:
    """The operator named them."""
    assert chosen(address, bootstrap=True) == [address]


@pytest.mark.parametrize("address", ["ws://10.1.2.3", "ws://192.168.1.1:80", "ws://[::1]:7000", "wss://printer.local"])
def test_private_addresses_are_dialled_only_where_allowed(address: str) -> None:
    assert chosen(address, skip=()) == []
    assert len(chosen(address, skip=(), private=True)) == 1


@pytest.mark.parametrize("address", ["", "nonsense", "http://", "wss://", "wss://exa mple", "wss://x..y"])
def test_what_is_no_address_is_passed_over(address: str) -> None:
    """A row of an older version, or of an import, must not stop the crawl."""
    assert chosen(address, "wss://good.example") == ["wss://good.example"]


def test_no_host_is_dialled_more_often_than_the_bound() -> None:
    """Whatever the paths and ports; other hosts are not held up."""
    addresses = [f"wss://one.example/{number}" for number in range(9)]
    addresses += [f"wss://one.example:{8000 + number}" for number in range(9)]
    addresses += ["wss://two.example", "wss://sub.one.example"]
    assert chosen(*addresses, per_host=3) == [*addresses[:3], "wss://two.example", "wss://sub.one.example"]


def test_ws_and_wss_of_one_address_are_one_relay() -> None:
    """The one that is better known stands for both."""
    assert chosen("ws://one.example", "wss://one.example", "wss://two.example", "ws://two.example") == [
        "ws://one.example",
        "wss://two.example",
    ]
    assert len(chosen("ws://one.example/a", "wss://one.example/b")) == 2


def test_what_is_not_taken_leaves_its_place_to_others() -> None:
    addresses = ["wss://relay.nos.social", "junk", *[f"wss://one.example/{n}" for n in range(5)], "wss://last.example"]
    assert chosen(*addresses, relays=4) == [*addresses[2:5], "wss://last.example"]


@pytest.mark.parametrize("crawlers", [1, 2, 3, 8])
def test_crawlers_share_relays_without_overlap(crawlers: int) -> None:
    """Everything is dialled by exactly one, and all of one host by the same."""
    addresses = [f"wss://r{number % 90}.example/{number}" for number in range(180)]
    everything = select([candidate(address, number=n) for n, address in enumerate(addresses)], selection(relays=1000))
    shares = [share_of(everything, index, crawlers) for index in range(crawlers)]
    assert sorted(each.candidate.relay for share in shares for each in share) == list(range(180))
    for share in shares:
        hosts = {each.address.host for each in share}
        assert all(not hosts & {each.address.host for each in other} for other in shares if other is not share)
    assert share_of(everything, crawlers, crawlers) == [], "a crawler too many has nothing to do"


@pytest.mark.parametrize("address", ["wss://one.example", "ws://127.0.0.9:7000/x", "no address"])
def test_every_address_is_somebodys(address: str) -> None:
    assert sum(is_share_of(address, index, 4) for index in range(4)) == 1


@pytest.mark.parametrize("seed", seeds(2))
def test_shares_are_even_and_another_number_of_crawlers_moves_few_hosts(seed: int) -> None:
    rng = random.Random(seed)
    hosts = [f"{rng.getrandbits(64):x}.example" for _ in range(3000)]
    counts = Counter(crawler_of(host, 4) for host in hosts)
    assert all(600 < counts[index] < 900 for index in range(4)), counts
    moved = [host for host in hosts if crawler_of(host, 4) != crawler_of(host, 5)]
    assert 450 < len(moved) < 750
    assert all(crawler_of(host, 5) == 4 for host in moved), "only to the new one"


def test_every_process_comes_to_the_same_answer() -> None:
    """Whatever the hash seed of its interpreter: these are fixed for ever."""
    assert [crawler_of(f"r{number}.example", 4) for number in range(8)] == [1, 3, 2, 1, 3, 1, 2, 0]


def test_a_tenth_of_the_places_is_for_trying_the_others_out_each_in_turn() -> None:
    """Whoever is on trial stays for its time; then come those that waited longest, and in the end everybody was."""
    candidates = [candidate(f"wss://r{n}.example", number=n) for n in range(100)]
    bounds, now, tried = selection(relays=20), TRIAL_MS, list[int]()
    for _ in range(45):
        chosen_now = select(candidates, bounds, now)
        assert [each.candidate.relay for each in chosen_now if not each.is_trial] == list(range(18))
        trial = [each.candidate.relay for each in chosen_now if each.is_trial]
        assert len(trial) == 2
        begun = tried_anew(chosen_now, now)
        tried += begun
        candidates = [each._replace(tried_at=now) if each.relay in begun else each for each in candidates]
        assert tried_anew(select(candidates, bounds, now + TRIAL_MS // 2), now + TRIAL_MS // 2) == []
        assert [each.candidate.relay for each in select(candidates, bounds, now + 1) if each.is_trial] == trial
        now += TRIAL_MS
    assert sorted(tried[:82]) == list(range(18, 100))


def test_where_there_is_room_for_all_nobody_is_on_trial() -> None:
    candidates = [candidate(f"wss://r{n}.example", number=n) for n in range(20)]
    assert not [each for each in select(candidates, selection(relays=20)) if each.is_trial]


def test_what_is_passed_over_is_counted_by_reason() -> None:
    addresses = ["nonsense", "ws://10.1.2.3", "wss://relay.nostr.band", "wss://good.example"]
    counts = passed_over([candidate(each) for each in addresses], selection())
    assert counts == {Skipped.NO_ADDRESS: 1, Skipped.PRIVATE: 1, Skipped.SKIP_LIST: 1}


def test_onion_relays_are_dialled_where_there_is_a_way() -> None:
    onion = f"ws://{onion_host()}"
    without = selection()
    with_proxy = replace(without, allow_onion=True)
    assert passed_over([candidate(onion)], without) == {Skipped.NO_WAY: 1}
    assert urls(select([candidate(onion)], without)) == []
    assert urls(select([candidate(onion)], with_proxy)) == [onion]


def test_relays_of_the_operator_are_dialled_whatever_the_bounds() -> None:
    addresses = [f"wss://relay.example:{port}" for port in range(1, 6)] + ["wss://other.example", "ws://other.example"]
    assert chosen(*addresses, bootstrap=True, per_host=3, relays=2) == addresses
    strangers = [candidate(f"wss://relay.example/{n}", number=100 + n) for n in range(4)]
    named = [candidate(address, bootstrap=True, number=n) for n, address in enumerate(addresses[:2])]
    assert urls(select([*named, *strangers], selection(per_host=3))) == [*addresses[:2], "wss://relay.example/0"]


def test_relays_beyond_the_bound_per_host_are_counted_as_skipped() -> None:
    candidates = [candidate(f"wss://relay.example/{n}", number=n) for n in range(5)]
    assert passed_over(candidates, selection(per_host=3)) == {Skipped.HOST: 2}
    named = [candidate(f"wss://relay.example/x{n}", bootstrap=True, number=10 + n) for n in range(4)]
    assert passed_over([*named, *candidates], selection(per_host=3)) == {Skipped.HOST: 5}
    assert passed_over(named, selection(per_host=3)) == {}


def test_candidate_is_dialled_as_spelled_unless_that_is_another_relay() -> None:
    plain = candidate("wss://relay.example/x")
    spelled = [plain._replace(spelling=text) for text in ("wss://relay.example/x/", "wss://relay.example/y", "junk")]
    dialled = [select([each], selection())[0].address.spelling for each in spelled]
    assert dialled == ["wss://relay.example/x/", "wss://relay.example/x", "wss://relay.example/x"]


def test_trial_begun_by_a_clock_ahead_is_over() -> None:
    """Else it would last until that time, and be nobody else's."""
    now = 10 * TRIAL_MS
    candidates = [candidate(f"wss://r{n}.example", number=n) for n in range(20)]
    candidates[12] = candidates[12]._replace(tried_at=now + 400 * 86_400_000)
    candidates[13] = candidates[13]._replace(tried_at=now - 1)
    chosen_now = select(candidates, selection(relays=10), now)
    assert [each.candidate.relay for each in chosen_now if each.is_trial] == [13]
    candidates[12:] = [each._replace(tried_at=now + 1 if each.relay == 12 else 1) for each in candidates[12:]]
    assert 12 not in [each.candidate.relay for each in select(candidates, selection(relays=10), now)]


def test_relay_lists_are_asked_of_the_operators_and_twenty_stable_relays() -> None:
    mine = [candidate(f"wss://mine{n}.example", bootstrap=True, number=n) for n in range(3)]
    others = [candidate(f"wss://r{n}.example", number=100 + n) for n in range(40)]
    first = fetching_lists(select([*mine, *others], selection()), frozenset())
    assert first == set(range(100, 120))
    turned = fetching_lists(select([*mine, *reversed(others)], selection()), first)
    assert turned == first
    gone = fetching_lists(select([*mine, *others[5:]], selection()), first)
    assert gone == set(range(105, 125))


@pytest.mark.parametrize("port", [22, 25, 53, 445, 587, 3306, 5432, 6379, 6667, 11211, 27017])
def test_ports_of_other_services_are_dialled_only_if_the_operator_says_so(port: int) -> None:
    url = f"wss://r1.example:{port}"
    assert chosen(url) == []
    assert chosen(url, ports=frozenset({port})) == [url]
    assert chosen(url, bootstrap=True) == [url]
    assert passed_over([candidate(url)], selection()) == {Skipped.PORT: 1}


@pytest.mark.parametrize(
    "port", [81, 444, 2700, 3000, 3334, 4848, 5577, 7000, 7447, 7777, 8000, 8008, 8080, 8443, 8888, 9001, 10547, 65_535]
)
def test_ports_at_which_relays_are_found_are_dialled(port: int) -> None:
    assert chosen(url := f"wss://r1.example:{port}") == [url]


def test_own_address_is_not_dialled_but_other_ports_of_its_host_are() -> None:
    own = parse_address("wss://events.example")
    addresses = ["wss://events.example", "wss://events.example/relay", "wss://events.example:4848", "wss://example"]
    assert chosen(*addresses[:3], own=own) == [addresses[2]]
    assert passed_over([candidate(addresses[0])], selection(own=own)) == {Skipped.OWN: 1}
