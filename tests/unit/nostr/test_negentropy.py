"""Negentropy against the protocol's vectors, an independent answering side written here, and hostile messages."""

import random
from bisect import bisect_left
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.nostr.negentropy import (
    DEFAULT_FRAME_LIMIT,
    MAX_ROUNDS,
    MIN_FRAME_LIMIT,
    InvalidNegentropy,
    ItemSet,
    NegentropyFault,
    Reconciliation,
)
from pipeline.nostr.negentropy_wire import MAX_MESSAGE_LENGTH, MAX_RANGES, START, Mode, Reader, encode_varint

Item = tuple[int, bytes]
INFINITY: Item = (2**64 - 1, b"")
EMPTY = "7f9c9e31ac8256ca2f258583df262dbc"  # the fingerprint of no items


class Relay:
    """The answering side, as plain as possible and sharing no code with the asking side.

    It cuts its answer at a frame limit as the C++ reference does: the rest's fingerprint leaves out a range whose
    answer did not fit, and it may follow a list that already reaches to infinity.
    """

    def __init__(self, items: list[Item], frame_limit: int | None = None) -> None:
        self.items = sorted(set(items))
        self.limit = 10**9 if frame_limit is None else frame_limit - 200
        self.message = b""
        self.position = self.time_in = self.time_out = 0

    def answer(self, message: bytes) -> bytes:
        assert message[0] == 0x61
        self.message, self.position, self.time_in, self.time_out = message, 1, 0, 0
        out, skipping, lower, lower_bound = bytearray(b"\x61"), False, 0, (0, b"")
        while self.position < len(message):
            bound, mode = self.take_bound(), self.take_varint()
            upper = max(lower, bisect_left(self.items, bound))
            agreed = mode == 0 or (mode == 1 and self.take(16) == self.fingerprint(lower, upper))
            chunk = self.head(lower_bound, 0) if skipping and not agreed else b""
            skipping = agreed
            if mode == 1 and not agreed:
                chunk += self.split(lower, upper, bound)
            elif mode == 2:
                self.take(self.take_varint() * 32)
                fitting = max(1, (self.limit - len(out)) // 32 + 1)
                if upper - lower > fitting:
                    upper = lower + fitting
                    bound = self.items[upper]
                ids = b"".join(item[1] for item in self.items[lower:upper])
                out += chunk + self.head(bound, 2) + encode_varint(upper - lower) + ids
                chunk = b""
            if len(out) + len(chunk) > self.limit:
                return bytes(out) + self.head(INFINITY, 1) + self.fingerprint(upper, len(self.items))
            out += chunk
            lower, lower_bound = upper, bound
        return bytes(out)

    def take(self, count: int) -> bytes:
        self.position += count
        assert self.position <= len(self.message)
        return self.message[self.position - count : self.position]

    def take_varint(self) -> int:
        value = 0
        while (byte := self.take(1)[0]) >= 128:
            value = value * 128 + byte - 128
        return value * 128 + byte

    def take_bound(self) -> Item:
        delta = self.take_varint()
        self.time_in = self.time_in + delta - 1 if delta else INFINITY[0]
        return self.time_in, self.take(self.take_varint())

    def fingerprint(self, lower: int, upper: int) -> bytes:
        total = sum(int.from_bytes(item[1], "little") for item in self.items[lower:upper]) % 2**256
        return sha256(total.to_bytes(32, "little") + encode_varint(upper - lower)).digest()[:16]

    def head(self, bound: Item, mode: int) -> bytes:
        delta = 0
        if bound != INFINITY:
            delta, self.time_out = bound[0] - self.time_out + 1, bound[0]
        return encode_varint(delta) + bytes([len(bound[1])]) + bound[1] + bytes([mode])

    def split(self, lower: int, upper: int, bound: Item) -> bytes:
        items, count = self.items[lower:upper], upper - lower
        if count < 32:
            return self.head(bound, 2) + encode_varint(count) + b"".join(item[1] for item in items)
        ends = [lower + (count // 16) * n + min(n, count % 16) for n in range(17)]
        out = bytearray()
        for start, end in pairwise(ends):
            inner = bound
            if end < upper:
                time, event_id = self.items[end]
                before_time, before_id = self.items[end - 1]
                common = next(n for n in range(33) if n == 32 or event_id[n] != before_id[n])
                inner = (time, b"" if before_time != time else event_id[: common + 1])
            out += self.head(inner, 1) + self.fingerprint(start, end)
        return bytes(out)


def make_id(label: object) -> bytes:
    return sha256(str(label).encode()).digest()


def reconcile(ours: list[Item], relay: Relay, frame_limit: int | None) -> Reconciliation:
    reconciliation = Reconciliation(ItemSet(ours), frame_limit=frame_limit)
    message: bytes | None = reconciliation.open()
    while message is not None:
        assert frame_limit is None or len(message) <= frame_limit
        message = reconciliation.receive(relay.answer(message))
    return reconciliation


def check(ours: list[Item], theirs: list[Item], frame_limit: int | None, relay_limit: int | None) -> Reconciliation:
    result = reconcile(ours, Relay(theirs, relay_limit), frame_limit)
    our_ids, their_ids = {item[1] for item in ours}, {item[1] for item in theirs}
    assert result.need == their_ids - our_ids
    assert result.have == our_ids - their_ids
    return result


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8100"), (300, "822c"), (2**32, "9080808000"), (2**64 - 1, "81ffffffffffffffff7f")],
)
def test_varint(value: int, encoded: str) -> None:
    assert encode_varint(value).hex() == encoded


@pytest.mark.parametrize(
    ("ids", "fingerprint"),
    [
        ([], EMPTY),
        ([b"\x01" + bytes(31)], "2e255099d6d6bee307c8e7075acc78f9"),
        ([b"\x01" + bytes(31), b"\xff" * 32], "58cc2f44d3a27866874701fbad573da9"),
    ],
)
def test_fingerprint(ids: list[bytes], fingerprint: str) -> None:
    assert ItemSet((7, event_id) for event_id in ids).fingerprint(0, len(ids)).hex() == fingerprint


def test_fingerprints_of_any_slice_match_the_plain_sum() -> None:
    relay = Relay([(n // 3, make_id(n)) for n in range(200)])
    items = ItemSet(relay.items)
    for lower in range(0, 201, 7):
        for upper in range(lower, 201, 5):
            assert items.fingerprint(lower, upper) == relay.fingerprint(lower, upper)


def test_first_message_without_items() -> None:
    assert Reconciliation(ItemSet([])).open().hex() == "6100000200"


def test_first_message_with_few_items_lists_them() -> None:
    items = [(2000, b"\x03" * 32), (1000, b"\x02" * 32), (1000, b"\x01" * 32), (1000, b"\x01" * 32)]
    assert Reconciliation(ItemSet(items)).open().hex() == "6100000203" + "01" * 32 + "02" * 32 + "03" * 32


def test_first_message_with_many_items_fingerprints_them() -> None:
    message = Reconciliation(ItemSet((1_700_000_000 + n // 2, make_id(n)) for n in range(40))).open()
    assert len(message) == 313
    assert sha256(message).hexdigest() == "932ee2059003b91389685c973480a8348f2f5f8b6a8588ea5929a4bbadde68fc"


@pytest.mark.parametrize(("count", "mode"), [(31, "02"), (32, "01")])
def test_fewer_than_32_items_are_listed_at_first(count: int, mode: str) -> None:
    message = Reconciliation(ItemSet((n, make_id(n)) for n in range(count))).open()
    assert message[:4].hex() == ("610000" if mode == "02" else "610300") + mode


@pytest.mark.parametrize(("count", "fingerprints"), [(1, 1), (3, 1), (4, 2), (31, 11), (255, 85), (256, 16)])
def test_differing_range_is_split_finely_and_never_listed_by_us(count: int, fingerprints: int) -> None:
    items = [(n, make_id(n)) for n in range(count)]
    answer = Reconciliation(ItemSet(items)).receive(bytes.fromhex("61" + "000001" + "00" * 16))
    assert answer is not None
    reader, modes, bound = Reader(answer), [], START
    while not reader.at_end:
        bound, mode = reader.range_head(bound)
        modes.append(mode)
        reader.fingerprint()
    assert modes == [Mode.FINGERPRINT] * fingerprints
    assert sum(event_id in answer for _, event_id in items) == 0


def test_a_tenth_that_is_missing_costs_less_than_all_ids_of_the_relay() -> None:
    """Spread evenly, in sets of thousands; what was listed both ways before cost more than twice as much."""
    theirs = [(n, make_id(n)) for n in range(5_000)]
    relay, ours = Relay(theirs), Reconciliation(ItemSet(item for n, item in enumerate(theirs) if n % 10))
    message: bytes | None = ours.open()
    said = 0
    while message is not None:
        reply = relay.answer(message)
        said += len(message) + len(reply)
        message = ours.receive(reply)
    assert len(ours.need) == 500
    assert said < 0.75 * 32 * len(theirs)


def test_one_skip_stands_before_ranges_that_differ_and_none_between() -> None:
    differing = "02000200", "020001" + "00" * 16
    for skips in ("", "020000", "010000020000"):
        answer = receive(bytes.fromhex("61" + skips + differing[1] * 2))
        assert answer is not None
        assert answer.hex() == "61" + skips[-6:] + differing[0] * 2


def test_items_of_a_window_include_both_ends() -> None:
    items = ItemSet((n // 2, make_id(n)) for n in range(20))
    window = items.between(2, 4)
    assert set(window.ids(0, len(window))) == {make_id(n) for n in range(4, 10)}
    expected = Relay([(n // 2, make_id(n)) for n in range(4, 10)])
    assert window.fingerprint(0, len(window)) == expected.fingerprint(0, 6)
    assert (len(items), len(items.between(5, 4)), len(items.between(0, 2**64 - 2))) == (20, 0, 20)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 64, 65, 200, 1000])
def test_parts_of_parts_are_as_if_made_anew(size: int) -> None:
    whole = ItemSet((n // 3, make_id(n)) for n in range(size))
    window = whole.between(size // 20, size // 4)
    part, held_back = window.holding_back(16)
    again, more = part.between(0, size // 5).holding_back(3)
    ids = {event_id for event_id in window.ids(0, len(window)) if event_id not in held_back}
    assert len(held_back) == min(16, len(window))
    assert set(part.ids(0, len(part))) == ids
    assert more <= ids
    for each in (window, part, again):
        made = ItemSet((int.from_bytes(each.key(n)[:8]), each.key(n)[8:]) for n in range(len(each)))
        for lower in range(0, len(each) + 1, 13):
            for upper in range(lower, len(each) + 1, 11):
                assert each.fingerprint(lower, upper) == made.fingerprint(lower, upper)


@pytest.mark.parametrize("item", [(0, bytes(31)), (0, bytes(33)), (2**64 - 1, bytes(32))])
def test_items_that_the_protocol_cannot_name(item: Item) -> None:
    with pytest.raises(ValueError, match=r"has 32 bytes|below 2\*\*64"):
        ItemSet([item])


def test_frame_limits_too_small_for_one_range_are_refused() -> None:
    with pytest.raises(ValueError, match="4096"):
        Reconciliation(ItemSet([]), frame_limit=MIN_FRAME_LIMIT - 1)


SIZES = [0, 1, 2, 15, 16, 17, 31, 32, 33, 100, 511, 512, 513]


@pytest.mark.parametrize("relay_size", SIZES)
@pytest.mark.parametrize("our_size", SIZES)
def test_sizes_around_the_thresholds(our_size: int, relay_size: int) -> None:
    ours = [(n // 3, make_id(("ours", n))) for n in range(our_size)]
    theirs = [(n // 3, make_id(("theirs", n))) for n in range(relay_size)]
    check(ours, theirs, None, None)
    check(ours + theirs, theirs, None, None)
    check(ours, ours + theirs, None, None)


def test_agreement_takes_one_answer() -> None:
    items = [(n, make_id(n)) for n in range(1000)]
    assert check(items, items, DEFAULT_FRAME_LIMIT, None).rounds == 1


def test_one_difference_among_many_takes_few_answers() -> None:
    items = [(n, make_id(n)) for n in range(10_000)]
    result = check(items[:5000] + items[5001:], items, DEFAULT_FRAME_LIMIT, DEFAULT_FRAME_LIMIT)
    assert result.rounds <= 4


ITEMS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.sampled_from([127, 128, 2**32, 2**64 - 2])),
        st.one_of(st.binary(min_size=32, max_size=32), st.integers(0, 5).map(lambda n: bytes(31) + bytes([n]))),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(ITEMS, ITEMS, ITEMS, st.sampled_from([None, MIN_FRAME_LIMIT]))
def test_small_sets_with_odd_times_and_ids(
    both: list[Item], ours: list[Item], theirs: list[Item], limit: int | None
) -> None:
    """One id has one time, as an event's id fixes its created_at."""
    times: dict[bytes, int] = {}
    for time, event_id in [*both, *ours, *theirs]:
        times.setdefault(event_id, time)
    mine, other = [[(times[event_id], event_id) for _, event_id in items] for items in (both + ours, both + theirs)]
    check(mine, other, limit, limit)


def random_items(rng: random.Random, count: int) -> list[Item]:
    """Items spread in time, or crowded into few seconds, with ids that are random or share a long beginning."""
    span = rng.choice([1, 2, count + 1, 10**6])
    shared = bytes(rng.choice([0, 0, 1, 28]))
    return [(1_700_000_000 + rng.randrange(span), shared + rng.randbytes(32 - len(shared))) for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 1, 30, 300, 3000]),
    st.sampled_from([0, 1, 30, 300, 3000]),
    st.sampled_from([0, 1, 30, 300, 3000]),
    st.sampled_from([None, MIN_FRAME_LIMIT, 10_000]),
    st.sampled_from([None, MIN_FRAME_LIMIT, 10_000]),
)
def test_large_sets_with_and_without_frame_limits(
    seed: int, shared: int, ours: int, theirs: int, frame_limit: int | None, relay_limit: int | None
) -> None:
    rng = random.Random(seed)
    both = random_items(rng, shared)
    check(both + random_items(rng, ours), both + random_items(rng, theirs), frame_limit, relay_limit)


def differing_ranges(times: range) -> bytes:
    """A message of ranges, each one second long, whose fingerprints nothing has."""
    bounds = [encode_varint(times.start + 1), *(b"\x02" for _ in times[1:])]
    return b"\x61" + b"".join(bound + b"\x00\x01" + bytes(16) for bound in bounds)


def test_a_full_message_ends_with_the_fingerprint_of_all_that_was_left_out() -> None:
    items = [(n, make_id(n)) for n in range(1_000)]
    reconciliation = Reconciliation(ItemSet(items), frame_limit=MIN_FRAME_LIMIT)
    answer = reconciliation.receive(differing_ranges(range(1_000)))
    assert answer is not None
    assert MIN_FRAME_LIMIT - 400 < len(answer) <= MIN_FRAME_LIMIT
    assert answer[-19:-16].hex() == "000001"
    rests = [Relay(items[start:]).fingerprint(0, 1_000 - start) for start in range(1_000)]
    asked = rests.index(answer[-16:])
    assert sum(Relay([item]).fingerprint(0, 1) in answer for item in items) == asked > 50


def test_full_message_past_our_last_item_lists_no_ids() -> None:
    """A full relay answers with the fingerprint of its own empty rest, which would pass for agreement."""
    reconciliation = Reconciliation(ItemSet([(0, make_id(0))]), frame_limit=MIN_FRAME_LIMIT)
    answer = reconciliation.receive(differing_ranges(range(1, 2_000)))
    assert answer is not None
    assert MIN_FRAME_LIMIT - 400 < len(answer) <= MIN_FRAME_LIMIT
    assert answer[-4:].hex() == "00000200"


def receive(message: bytes, items: list[Item] | None = None) -> bytes | None:
    return Reconciliation(ItemSet(items or [])).receive(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", NegentropyFault.TRUNCATED),
        ("60", NegentropyFault.VERSION),
        ("62000000", NegentropyFault.VERSION),
        ("6100", NegentropyFault.TRUNCATED),
        ("610000", NegentropyFault.TRUNCATED),
        ("6100000200ff", NegentropyFault.TRUNCATED),
        ("61000001" + "00" * 15, NegentropyFault.TRUNCATED),
        ("6100000201" + "00" * 31, NegentropyFault.TRUNCATED),
        ("61000002ffffffff7f", NegentropyFault.TRUNCATED),
        ("6100000281ffffffffffffffff7f", NegentropyFault.TRUNCATED),
        ("6180808080808080808080", NegentropyFault.VARINT),
        ("6182808080808080808000", NegentropyFault.VARINT),
        ("610121" + "00" * 33 + "00", NegentropyFault.BOUND),
        ("6100000000", NegentropyFault.TRUNCATED),
        ("61020101000100000000000003", NegentropyFault.ORDER),
        ("610501020001010100", NegentropyFault.ORDER),
        ("61000003", NegentropyFault.MODE),
        ("610000ff7f", NegentropyFault.MODE),
    ],
)
def test_malformed_messages(message: str, reason: NegentropyFault) -> None:
    with pytest.raises(InvalidNegentropy) as caught:
        receive(bytes.fromhex(message))
    assert caught.value.reason is reason


def test_messages_are_bounded() -> None:
    for message in (bytes([0x61]) * (MAX_MESSAGE_LENGTH + 1), b"\x61" + b"\x01\x00\x00" * (MAX_RANGES + 1)):
        with pytest.raises(InvalidNegentropy) as caught:
            receive(message)
        assert caught.value.reason is NegentropyFault.LENGTH


def test_times_beyond_64_bits_mean_infinity() -> None:
    far = bytes.fromhex("81ffffffffffffffff7f")
    assert receive(b"\x61" + far + b"\x00\x00" + far + b"\x00\x00") is None


@pytest.mark.parametrize(
    "message",
    [
        "61",
        "61000000",
        "6101000005000000000200",
        "6101000000000200",
        "61020201000001010100",
        "61000002000000" + "01" + EMPTY,
    ],
)
def test_settled_messages_end_it(message: str) -> None:
    """Skips and lists that agree call for no answer. A missing tail is settled; zeros after a bound mean nothing."""
    assert receive(bytes.fromhex(message)) is None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(data: bytes) -> None:
    items = [(n, make_id(n)) for n in range(50)]
    for message in (data, b"\x61" + data):
        try:
            answer = receive(message, items)
        except InvalidNegentropy:
            continue
        assert answer is None or answer[0] == 0x61


def test_every_truncation_of_an_answer_is_noticed_or_ends_at_a_range() -> None:
    relay = Relay([(n, make_id(n)) for n in range(0, 400, 2)])
    ours = [(n, make_id(n)) for n in range(0, 400, 3)]
    answer = relay.answer(Reconciliation(ItemSet(ours)).open())
    noticed = 0
    for length in range(len(answer)):
        try:
            receive(answer[:length], ours)
        except InvalidNegentropy as error:
            noticed += error.reason is NegentropyFault.TRUNCATED
    assert noticed > len(answer) * 0.9


def test_a_relay_that_never_agrees_is_given_up() -> None:
    reconciliation = Reconciliation(ItemSet((n, make_id(n)) for n in range(40)))
    for _ in range(MAX_ROUNDS):
        assert reconciliation.receive(b"\x61\x00\x00\x01" + bytes(16)) is not None
    with pytest.raises(InvalidNegentropy) as caught:
        reconciliation.receive(b"\x61")
    assert caught.value.reason is NegentropyFault.ROUNDS


def test_a_relay_that_invents_ids_without_end_is_given_up() -> None:
    reconciliation = Reconciliation(ItemSet([]), max_need=100)
    for start in (0, 50):
        assert (
            reconciliation.receive(b"\x61\x00\x00\x02\x32" + b"".join(map(make_id, range(start, start + 50)))) is None
        )
    with pytest.raises(InvalidNegentropy) as caught:
        reconciliation.receive(b"\x61\x00\x00\x02\x01" + make_id(100))
    assert caught.value.reason is NegentropyFault.IDS
    assert len(reconciliation.need) >= 100
