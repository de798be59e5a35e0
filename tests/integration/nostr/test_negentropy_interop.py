"""Negentropy against a relay that we did not write: the difference found is exactly the difference there is."""

import random
from collections.abc import Iterator

import pytest
import websocket

from pipeline.nostr.client_message import encode_neg_close, encode_neg_msg, encode_neg_open
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import NegError, NegMessage, parse_relay_message
from pipeline.nostr.negentropy import DEFAULT_FRAME_LIMIT, MIN_FRAME_LIMIT, ItemSet, Reconciliation
from tests.factories.events import Author
from tests.fakes.independent_relay import IndependentRelay
from tests.support.seeds import seeds

Item = tuple[int, bytes]

SIZES = (0, 1, 100, 2_000)
MANY = 30_000  # the relay refuses more than 50,000
START = 1_700_000_000
CLUSTER = 40  # events in one second: more than a list holds, so that bounds need parts of ids
TIMEOUT_S = 60.0
# The first test signs and stores what all need.
pytestmark = pytest.mark.timeout(400)


class Peer:
    """The relay, and what it holds: as many events of kind 5000 + n as the n-th number asked for."""

    def __init__(self, relay: IndependentRelay) -> None:
        self.relay = relay
        self.items: dict[int, list[Item]] = {}

    def fill(self, size: int) -> None:
        kind = 5_000 + len(self.items)
        author = Author.from_seed(1, 0)
        events = [author.sign(str(n), kind=kind, created_at=START + n // CLUSTER) for n in range(size)]
        assert self.relay.load(events) == size
        self.items[size] = [(event.created_at, bytes.fromhex(event.id)) for event in events]

    def query(self, size: int) -> Filter:
        return Filter(kinds=frozenset({5_000 + list(self.items).index(size)}))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with IndependentRelay(lmdb=tmp_path_factory.mktemp("lmdb")) as relay:
        filled = Peer(relay)
        for size in SIZES:
            filled.fill(size)
        yield filled


@pytest.fixture(scope="module")
def large_peer(peer: Peer) -> Peer:
    peer.fill(MANY)
    return peer


@pytest.fixture
def connection(peer: Peer) -> Iterator[websocket.WebSocket]:
    socket = websocket.create_connection(peer.relay.url, timeout=TIMEOUT_S)
    yield socket
    socket.close()


def reconcile(connection: websocket.WebSocket, query: Filter, ours: ItemSet, limit: int | None) -> Reconciliation:
    reconciliation = Reconciliation(ours, frame_limit=limit)
    opening = reconciliation.open()
    connection.send(encode_neg_open("neg", query, opening))
    message: bytes | None = opening
    while message is not None:
        assert limit is None or len(message) <= limit
        answer = parse_relay_message(connection.recv().encode())
        assert isinstance(answer, NegMessage), answer
        message = reconciliation.receive(answer.payload)
        if message is not None:
            connection.send(encode_neg_msg("neg", message))
    connection.send(encode_neg_close("neg"))
    return reconciliation


def ours_beside(theirs: list[Item], size: int, shared: int, seed: int) -> list[Item]:
    """`size` items, `shared` of them the relay's, the rest as crowded in time as the relay's."""
    rng = random.Random(seed)
    span = max(size, len(theirs)) // CLUSTER + 1
    own = [(START + rng.randrange(span), rng.randbytes(32)) for _ in range(size - shared)]
    return rng.sample(theirs, shared) + own


def check(
    connection: websocket.WebSocket, peer: Peer, *, theirs: int, size: int, shared: int, limit: int | None, seed: int
) -> Reconciliation:
    items = peer.items[theirs]
    ours = ours_beside(items, size, shared, seed)
    result = reconcile(connection, peer.query(theirs), ItemSet(ours), limit)
    assert result.need == {event_id for _, event_id in items} - {event_id for _, event_id in ours}
    assert result.have == {event_id for _, event_id in ours} - {event_id for _, event_id in items}
    return result


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("limit", [None, DEFAULT_FRAME_LIMIT, MIN_FRAME_LIMIT])
@pytest.mark.parametrize("theirs", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_finds_exactly_the_difference(
    connection: websocket.WebSocket, peer: Peer, size: int, theirs: int, limit: int | None, seed: int
) -> None:
    most = min(size, theirs)
    for shared in {0, most // 2, most - most // 50}:
        check(connection, peer, theirs=theirs, size=size, shared=shared, limit=limit, seed=seed)


@pytest.mark.parametrize("limit", [None, DEFAULT_FRAME_LIMIT])
@pytest.mark.parametrize(
    ("size", "shared", "most_rounds"),
    [(0, 0, 25), (1, 1, 25), (100, 50, 40), (MANY, MANY, 1), (MANY, MANY - 100, 5), (MANY, MANY // 2, 60)],
)
def test_thirty_thousand(
    connection: websocket.WebSocket, large_peer: Peer, size: int, shared: int, most_rounds: int, limit: int | None
) -> None:
    result = check(connection, large_peer, theirs=MANY, size=size, shared=shared, limit=limit, seed=1)
    assert result.rounds <= most_rounds


def test_thirty_thousand_on_our_side_alone(connection: websocket.WebSocket, peer: Peer) -> None:
    check(connection, peer, theirs=1, size=MANY, shared=1, limit=DEFAULT_FRAME_LIMIT, seed=1)


def test_a_window_is_compared_with_our_items_of_that_window(connection: websocket.WebSocket, peer: Peer) -> None:
    theirs = peer.items[2_000]
    since, until = START + 10, START + 20
    ours = ItemSet(theirs[::2]).between(since, until)
    assert len(ours) == 11 * CLUSTER // 2
    query = Filter(kinds=peer.query(2_000).kinds, since=since, until=until)
    result = reconcile(connection, query, ours, DEFAULT_FRAME_LIMIT)
    assert result.need == {event_id for time, event_id in theirs[1::2] if since <= time <= until}
    assert result.have == set()


def test_a_message_outside_of_a_session_is_answered_with_an_error(connection: websocket.WebSocket, peer: Peer) -> None:
    connection.send(encode_neg_msg("nobody", Reconciliation(ItemSet([])).open()))
    answer = parse_relay_message(connection.recv().encode())
    assert isinstance(answer, NegError)
    assert answer.reason
