"""Registrations over websockets, by the client library that relays are read with."""

import json
from pathlib import Path
from typing import Any

import pytest
import websocket

from pipeline.nostr.nip19 import encode_npub
from pipeline.process.doorbell import Doorbell
from pipeline.server import session
from pipeline.store import authors, relay_candidates, users, wanted_authors
from pipeline.store.database import Tx
from tests.factories.events import Author, SignedEvent, assemble, forge_content, forge_signature
from tests.factories.events import authors as make_authors
from tests.integration.server.harness import PATIENCE_S, Running, ask, closing_code, running, write_lock_held
from tests.support.wanted_changes import changes_since

NOW = 1_700_000_000
ALICE, BOB = make_authors(2, 2)


def stored_relays(server: Running) -> dict[str, tuple[str, int, bool]]:
    """Source, namers and whether a user named it, by address."""
    with server.database() as database, database.read() as tx:
        rows = tx.execute("SELECT address, source, namers, named_by_user FROM relays")
        return {address: (source, namers, bool(named)) for address, source, namers, named in rows}


def registered(server: Running) -> set[str]:
    with server.database() as database, database.read() as tx:
        return {change.public_key.hex() for change in changes_since(tx, 0).registered if change.wanted}


def times(server: Running, author: Author) -> tuple[int, int]:
    with server.database() as database, database.read() as tx:
        number = authors.find(tx, bytes.fromhex(author.pubkey))
        ((created_at, updated_at),) = tx.execute(
            "SELECT created_at, updated_at FROM monitored WHERE author = ?", (number,)
        )
        return created_at, updated_at


def content(author: Author, text: str) -> SignedEvent:
    return author.sign(text, kind=6666, created_at=NOW)


def refusal(server: Running, event: SignedEvent) -> str:
    """Why the server refuses `event`; fails when it does not, or registers anybody."""
    label, event_id, accepted, why = server.publish(event.raw)
    assert (label, event_id, accepted) == ("OK", event.id, False)
    assert registered(server) == set()
    assert isinstance(why, str)
    return why


def test_registration_wakes_the_crawlers_once_it_is_committed(server: Running) -> None:
    bell = Doorbell.hang(server.config.database_path, "crawler-0")
    assert server.publish(forge_signature(ALICE.registration(NOW, [])).raw)[2] is False
    assert not bell.silence()
    event = ALICE.registration(NOW, [])
    assert server.publish(event.raw)[2] is True
    assert bell.silence()
    assert server.publish(ALICE.sign(kind=5, tags=[["e", event.id]], created_at=NOW + 1).raw)[2] is True
    assert bell.silence()
    bell.close()


def test_an_author_becomes_a_user_and_their_relays_are_known(server: Running) -> None:
    event = ALICE.registration(
        NOW, ["wss://relay.example.com", "wss://Relay.Example.com:443/", "ws://other.example.com/x"]
    )
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    assert registered(server) == {ALICE.pubkey}
    assert stored_relays(server) == {
        "wss://relay.example.com": ("registration", 1, True),
        "ws://other.example.com/x": ("registration", 1, True),
    }
    samples = server.samples()
    assert samples['application_handler_calls_total{handlerName="addPublicKeyToMonitor",result="success"}'] == 1
    assert samples['event_service_stage_out_total{stage="server"}'] == 1
    assert samples["event_service_registered_users"] == 1


def test_registration_is_on_the_disk_before_its_ok(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    register, synchronous = users.register, list[object]()

    def watched(tx: Tx, public_key: bytes, now: int) -> bool:
        synchronous.append(tx.pragma("synchronous"))
        return register(tx, public_key, now)

    monkeypatch.setattr(users, "register", watched)
    event = ALICE.registration(NOW, [])
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    assert synchronous == [2], "FULL"


def test_the_answer_is_exactly_one_compact_text(server: Running) -> None:
    event = ALICE.registration(NOW)
    with server.websocket() as client:
        client.send(f'["EVENT",{event.raw}]')
        opcode, data = client.recv_data()
    assert opcode == websocket.ABNF.OPCODE_TEXT
    assert data == f'["OK","{event.id}",true,""]'.encode()


@pytest.mark.parametrize("text", ['{"relays":[]}', '{"relays":null}', "{}", '{"relays":[],"more":1}'])
def test_the_list_may_be_empty_or_absent(server: Running, text: str) -> None:
    event = content(ALICE, text)
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    assert registered(server) == {ALICE.pubkey}
    assert stored_relays(server) == {}


def test_registering_again_only_renews_the_time(server: Running) -> None:
    event = ALICE.registration(NOW, ["wss://relay.example.com"])
    assert server.publish(event.raw)[2] is True
    with server.database() as database, database.read() as tx:
        generation = wanted_authors.latest_generation(tx)
    first = times(server, ALICE)
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    second = times(server, ALICE)
    assert first[0] == second[0]
    assert first[1] <= second[1]
    with server.database() as database, database.read() as tx:
        assert wanted_authors.latest_generation(tx) == generation
        assert users.count(tx) == 1
    assert stored_relays(server) == {"wss://relay.example.com": ("registration", 1, True)}


@pytest.mark.parametrize("created_at", [0, NOW])
def test_first_registration_may_be_of_any_age(server: Running, created_at: int) -> None:
    event = ALICE.registration(created_at)
    assert server.publish(event.raw) == ["OK", event.id, True, ""]


def test_registration_dated_far_ahead_is_refused(server: Running) -> None:
    now = server.clock.now_ms() // 1000
    assert "900 seconds ahead" in refusal(server, ALICE.registration(now + 960))
    assert server.publish(ALICE.registration(now + 840).raw)[2] is True


def test_older_registration_is_refused_and_the_same_renews(server: Running) -> None:
    newest, older, as_old = (
        ALICE.registration(at, [f"wss://r{number}.example.com"]) for number, at in enumerate((NOW, NOW - 1, NOW))
    )
    for event, accepted in ((newest, True), (older, False), (as_old, False), (newest, True)):
        assert server.publish(event.raw)[2] is accepted
    assert set(stored_relays(server)) == {"wss://r0.example.com"}
    assert server.discarded("outdated") == 2


def left_by(server: Running, event: SignedEvent) -> list[Any]:
    """The answer to `event`, by which ALICE has left."""
    answer = server.publish(event.raw)
    assert registered(server) == set()
    return list(answer)


def departure(kind: int, tags: list[list[str]], created_at: int = NOW + 1, author: Author = ALICE) -> SignedEvent:
    return author.sign(kind=kind, tags=tags, created_at=created_at)


REGISTRATION = ALICE.registration(NOW)


@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        (5, [["e", REGISTRATION.id]]),
        (62, [["relay", "ALL_RELAYS"]]),
        (62, [["relay", "wss://other.example"], ["relay", "wss://Events.example.com/"]]),
    ],
)
def test_user_leaves_and_an_old_registration_does_not_bring_them_back(
    tmp_path: Path, kind: int, tags: list[list[str]]
) -> None:
    with running(tmp_path, EVENTS_PUBLIC_URL="wss://events.example.com") as server:
        assert server.publish(REGISTRATION.raw)[2] is True
        event = departure(kind, tags)
        for _ in range(2):
            assert left_by(server, event) == ["OK", event.id, True, ""]
        for old in (REGISTRATION, ALICE.registration(NOW, ["wss://x.example.com"]), ALICE.registration(NOW + 1)):
            assert server.publish(old.raw)[2:] == [
                False, "invalid: not newer than your last registration or its removal"
            ]  # fmt: skip
        assert server.publish(ALICE.registration(NOW + 2).raw)[2] is True
        assert registered(server) == {ALICE.pubkey}


@pytest.mark.parametrize(
    "event",
    [
        departure(5, [["e", "0" * 64]]),
        departure(5, [["k", "6666"]]),
        departure(5, [["e", REGISTRATION.id]], author=BOB),
        departure(62, [["relay", "wss://other.example"]]),
        departure(62, [["relay", "ALL_RELAYS"]], NOW - 1),
        departure(62, [["relay", "ALL_RELAYS"]], author=BOB),
    ],
    ids=range(6),
)
def test_nothing_else_ends_a_registration(server: Running, event: SignedEvent) -> None:
    assert server.publish(REGISTRATION.raw)[2] is True
    server.publish(event.raw)
    assert registered(server) == {ALICE.pubkey}


def test_user_without_a_stored_event_leaves_by_its_kind(server: Running) -> None:
    """As one does who was registered by hand, or before events were stored."""
    now = server.clock.now_ms()
    with server.database() as database, database.write() as tx:
        users.register(tx, bytes.fromhex(ALICE.pubkey), now)
    server.publish(departure(5, [["k", "6666"]], now // 1000 - 60).raw)
    assert registered(server) == {ALICE.pubkey}, "older than the registration"
    left_by(server, departure(5, [["k", "6666"]], now // 1000 + 1))


def test_blocked_key_is_refused_until_it_is_added(server: Running) -> None:
    key = bytes.fromhex(ALICE.pubkey)
    assert server.publish(REGISTRATION.raw)[2] is True
    with server.database() as database, database.write() as tx:
        assert users.block(tx, key, server.clock.now_ms())
    newer = ALICE.registration(server.clock.now_ms() // 1000 + 60)
    assert refusal(server, newer).startswith("blocked: ")
    with server.database() as database, database.write() as tx:
        users.unblock(tx, key)
    assert server.publish(newer.raw)[2] is True


def test_origin_counts_only_where_the_operator_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.websocket(origin="https://any.example") as client:
        assert client.connected
    with running(tmp_path, EVENTS_ALLOWED_ORIGINS="https://good.example") as server:
        for options in ({"origin": "https://good.example"}, {"suppress_origin": True}):
            with server.websocket(**options) as client:
                assert client.connected
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(server.url, timeout=PATIENCE_S, origin="https://evil.example")
        assert refused.value.status_code == 403
        assert server.discarded("origin") == 1


def test_another_kind_is_refused(server: Running) -> None:
    assert refusal(server, ALICE.sign("{}", kind=1, created_at=NOW)) == "invalid: a registration is of kind 6666"


def test_an_id_that_is_not_the_hash_is_refused(server: Running) -> None:
    why = refusal(server, forge_content(ALICE.registration(NOW), '{"relays":[{"address":"wss://evil.example.com"}]}'))
    assert why == "invalid: id is not the hash of the event"


def test_a_wrong_signature_is_refused(server: Running) -> None:
    assert (
        refusal(server, forge_signature(ALICE.registration(NOW))) == "invalid: sig is not a signature of id by pubkey"
    )


def test_somebody_elses_registration_is_refused(server: Running) -> None:
    event = ALICE.registration(NOW)
    stolen = assemble(event.id, BOB.pubkey, NOW, 6666, (), event.content, event.sig)
    assert refusal(server, stolen) == "invalid: id is not the hash of the event"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "not of the form"),
        ('{"relays":"wss://relay.example.com"}', "not of the form"),
        ('{"relays":["wss://relay.example.com"]}', "not of the form"),
        ('{"relays":[{"url":"wss://relay.example.com"}]}', "not of the form"),
        ('{"relays":[{"address":7}]}', "not of the form"),
        ('{"relays":[{"address":"https://relay.example.com"}]}', "ws:// or wss://"),
        ('{"relays":[{"address":"relay.example.com"}]}', "ws:// or wss://"),
        ('{"relays":[{"address":"wss://"}]}', "cannot be used"),
        ('{"relays":[{"address":"wss://good.example.com"},{"address":"wss://bad host"}]}', "cannot be used"),
    ],
)
def test_bad_content_is_refused_and_says_why(server: Running, text: str, why: str) -> None:
    reason = refusal(server, content(ALICE, text))
    assert reason.startswith("invalid: ")
    assert why in reason
    assert stored_relays(server) == {}
    assert server.discarded("invalid-registration") == 1


PRIVATE = ["ws://127.0.0.1:7777", "wss://relay.local", "wss://relay.example.com", "ws://[::1]"]


def test_private_addresses_refuse_nothing_and_are_not_stored(server: Running) -> None:
    event = ALICE.registration(NOW, PRIVATE)
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    assert set(stored_relays(server)) == {"wss://relay.example.com"}


def test_private_addresses_are_stored_where_they_may_be_dialled(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_ALLOW_PRIVATE_RELAYS="true") as server:
        assert server.publish(ALICE.registration(NOW, PRIVATE).raw)[2] is True
        assert len(stored_relays(server)) == 4


def test_the_relays_of_one_registration_are_bounded(server: Running) -> None:
    event = ALICE.registration(NOW, [f"wss://r{number}.example.com" for number in range(130)])
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    assert set(stored_relays(server)) == {f"wss://r{number}.example.com" for number in range(100)}
    assert server.discarded("surplus-relays") == 30


def test_a_malformed_event_with_a_readable_id_is_refused_by_it(server: Running) -> None:
    event = ALICE.registration(NOW)
    value = event.to_value() | {"kind": "6666"}
    assert server.publish(json.dumps(value)) == [
        "OK",
        event.id,
        False,
        "invalid: kind is not a whole number from 0 to 65535",
    ]
    assert server.discarded("invalid-event") == 1


def test_one_websocket_takes_many_registrations(server: Running) -> None:
    events = [author.registration(NOW) for author in make_authors(3, 20)]
    with server.websocket() as client:
        for event in events:
            client.send(f'["EVENT",{event.raw}]')
        answers = [json.loads(client.recv()) for _ in events]
    assert answers == [["OK", event.id, True, ""] for event in events]
    assert registered(server) == {event.pubkey for event in events}


def test_a_message_in_fragments_is_taken(server: Running) -> None:
    event = ALICE.registration(NOW)
    text = f'["EVENT",{event.raw}]'
    pieces = [text[at : at + 40] for at in range(0, len(text), 40)]
    with server.websocket() as client:
        for number, piece in enumerate(pieces):
            opcode = websocket.ABNF.OPCODE_CONT if number else websocket.ABNF.OPCODE_TEXT
            client.send_frame(websocket.ABNF(int(number == len(pieces) - 1), 0, 0, 0, opcode, 1, piece.encode()))
        assert json.loads(client.recv()) == ["OK", event.id, True, ""]


OTHER: list[list[Any]] = [
    ["REQ", "x", {}],
    ["CLOSE", "x"],
    ["AUTH", {}],
    ["COUNT", "x", {}],
    ["NOTICE", "hello"],
    ["SOMETHING"],
    ["event", {}],
]


def test_close_and_auth_are_ignored(server: Running) -> None:
    event = ALICE.registration(NOW)
    with server.websocket() as client:
        for message in (["CLOSE", "a"], ["AUTH", json.loads(event.raw)], ["AUTH"], ["CLOSE"]):
            client.send(json.dumps(message))
        assert ask(client, f'["EVENT",{event.raw}]') == ["OK", event.id, True, ""]


@pytest.mark.parametrize("label", ["REQ", "COUNT"])
def test_requests_are_closed_as_unsupported(server: Running, label: str) -> None:
    """So that a client waits for nothing (NIP-01); one without a subscription gets a notice."""
    with server.websocket() as client:
        assert ask(client, json.dumps([label, "a", {"kinds": [0]}])) == ["CLOSED", "a", session.UNSUPPORTED]
        assert session.UNSUPPORTED.startswith("unsupported: ")
        assert ask(client, json.dumps([label, 5])) == ["NOTICE", session.UNSUPPORTED]


@pytest.mark.parametrize("message", [["NEG-OPEN", "a", {}, "61"], ["SOMETHING"], ["event", {}]])
def test_unknown_labels_get_a_notice(server: Running, message: list[object]) -> None:
    with server.websocket() as client:
        assert ask(client, json.dumps(message)) == ["NOTICE", session.UNSUPPORTED]


@pytest.mark.parametrize("text", ["", "x", "é" * 128, "AB" * 32])
def test_wrong_event_is_refused_by_what_it_calls_its_id(server: Running, text: str) -> None:
    """And the connection goes on."""
    event = ALICE.registration(NOW)
    with server.websocket() as client:
        label, answered, accepted, why = ask(client, json.dumps(["EVENT", {"id": text}]))
        assert (label, answered, accepted) == ("OK", text, False)
        assert why.startswith("invalid: ")
        assert ask(client, f'["EVENT",{event.raw}]') == ["OK", event.id, True, ""]


@pytest.mark.parametrize("frame", ['["EVENT"]', '["EVENT",5]', '["EVENT",{}]', '["EVENT",{"id":5}]'])
def test_wrong_event_without_an_id_gets_a_notice(server: Running, frame: str) -> None:
    event = ALICE.registration(NOW)
    with server.websocket() as client:
        label, why = ask(client, frame)
        assert label == "NOTICE"
        assert why.startswith("invalid: ")
        assert ask(client, f'["EVENT",{event.raw}]') == ["OK", event.id, True, ""]


def test_event_behind_a_subscription_registers(server: Running) -> None:
    """As the Go service's message parser took it."""
    event = ALICE.registration(NOW)
    with server.websocket() as client:
        assert ask(client, f'["EVENT","sub",{event.raw}]') == ["OK", event.id, True, ""]
    assert registered(server) == {ALICE.pubkey}


NO_MESSAGES = [
    "",
    "x",
    "{}",
    "[]",
    "[1]",
    "null",
    "[" * 500,
]


@pytest.mark.parametrize("frame", NO_MESSAGES, ids=range(len(NO_MESSAGES)))
def test_a_frame_that_is_no_message_closes_the_connection(server: Running, frame: str) -> None:
    with server.websocket() as client:
        client.send(frame)
        assert closing_code(client) == 1007
    assert server.discarded("no-message") == 1


def test_bytes_that_are_no_text_close_the_connection(server: Running) -> None:
    with server.websocket() as client:
        client.send_frame(websocket.ABNF(1, 0, 0, 0, websocket.ABNF.OPCODE_TEXT, 1, b"\xff\xfe"))
        assert closing_code(client) == 1007


def test_a_websocket_on_another_path_is_not_found(server: Running) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(server.url + "other", timeout=PATIENCE_S)
    assert refused.value.status_code == 404


def test_ok_comes_only_after_the_commit(server: Running) -> None:
    """While another process holds the write lock there is no answer, and afterwards there is."""
    event = ALICE.registration(NOW)
    with server.websocket() as client:
        with write_lock_held(server):
            client.send(f'["EVENT",{event.raw}]')
            # Another client's round trip is proof that the server had the time to answer.
            assert server.get("/_health").status == 200
            client.settimeout(0.2)
            with pytest.raises(websocket.WebSocketTimeoutException):
                client.recv()
            assert registered(server) == set()
        client.settimeout(PATIENCE_S)
        assert json.loads(client.recv()) == ["OK", event.id, True, ""]
    assert registered(server) == {ALICE.pubkey}


def test_a_failing_database_is_an_error_and_not_a_refusal(server: Running) -> None:
    with server.database() as database, database.write() as tx:
        tx.execute("ALTER TABLE monitored RENAME TO gone")
    event = ALICE.registration(NOW)
    _, event_id, accepted, why = server.publish(event.raw)
    assert (event_id, accepted) == (event.id, False)
    assert why.startswith("error: ")
    with server.database() as database, database.write() as tx:
        tx.execute("ALTER TABLE gone RENAME TO monitored")
    assert server.publish(event.raw) == ["OK", event.id, True, ""]
    calls = 'application_handler_calls_total{handlerName="addPublicKeyToMonitor",result="error"}'
    assert server.samples()[calls] == 1


def test_a_registered_users_relays_become_candidates(server: Running) -> None:
    assert server.publish(ALICE.registration(NOW, ["wss://relay.example.com"]).raw)[2] is True
    with server.database() as database, database.read() as tx:
        assert [each.address for each in relay_candidates.candidates(tx, discovered=True, limit=9)] == [
            "wss://relay.example.com"
        ]


def test_nobody_new_is_taken_beyond_the_most_users(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_MAX_USERS="1") as server:
        assert server.publish(ALICE.registration(NOW).raw)[2] is True
        assert server.publish(BOB.registration(NOW).raw)[2:] == [False, "restricted: no more users are taken"]
        assert server.publish(ALICE.registration(NOW + 1).raw)[2] is True, "who is registered may renew"
        assert registered(server) == {ALICE.pubkey}


def test_new_users_are_taken_beyond_the_most_wanted_authors(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_MAX_WANTED_AUTHORS="1") as server:
        assert server.publish(ALICE.registration(NOW).raw)[2] is True
        assert server.publish(BOB.registration(NOW).raw)[2] is True
        assert registered(server) == {ALICE.pubkey, BOB.pubkey}


def test_allowlist_admits_its_keys_and_lets_users_renew(tmp_path: Path) -> None:
    listed = tmp_path / "keys"
    listed.write_text(f"# friends\n{encode_npub(bytes.fromhex(BOB.pubkey))}  # Bob\n\n")
    with running(tmp_path, EVENTS_REGISTRATION="allowlist", EVENTS_REGISTRATION_ALLOWLIST=str(listed)) as server:
        assert refusal(server, ALICE.registration(NOW)) == "restricted: only keys that the operator listed can register"
        assert server.publish(BOB.registration(NOW).raw)[2] is True
        with server.database() as database, database.write() as tx:
            users.register(tx, bytes.fromhex(ALICE.pubkey), 1)
        assert server.publish(ALICE.registration(NOW).raw)[2] is True, "the operator's own users"
        assert server.samples()['event_service_stage_discarded_total{reason="not-listed",stage="server"}'] == 1


def mined(author: Author, bits: int, target: str) -> SignedEvent:
    """A registration whose id begins with just so many zero bits."""
    for nonce in range(10_000):
        event = author.sign('{"relays":[]}', kind=6666, tags=[["nonce", str(nonce), target]], created_at=NOW)
        if 256 - int(event.id, 16).bit_length() == bits:
            return event
    raise AssertionError


def test_proof_of_work_admits_who_committed_to_it(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_REGISTRATION="proof-of-work", EVENTS_REGISTRATION_DIFFICULTY="4") as server:
        for event in (ALICE.registration(NOW), mined(ALICE, 3, "4"), mined(ALICE, 5, "3"), mined(ALICE, 5, "x")):
            assert refusal(server, event).startswith("pow: 4 bits of work are needed")
        event = mined(ALICE, 5, "4")
        assert server.publish(event.raw) == ["OK", event.id, True, ""]


@pytest.mark.parametrize(
    ("kind", "tags", "refused"),
    [
        (5, [["e", REGISTRATION.id]], "invalid: you have deleted this registration, or vanished since"),
        (5, [["k", "6666"]], "invalid: not newer than your last registration or its removal"),
        (62, [["relay", "ALL_RELAYS"]], "invalid: not newer than your last registration or its removal"),
    ],
)
def test_departure_that_comes_before_its_registration_is_remembered(
    server: Running, kind: int, tags: list[list[str]], refused: str
) -> None:
    assert server.publish(departure(kind, tags).raw)[2] is True
    assert refusal(server, REGISTRATION) == refused
    newer = ALICE.registration(NOW + 5)
    assert server.publish(newer.raw)[2] is True
    later = departure(5, [["e", ALICE.registration(NOW + 9).id]], NOW + 8)
    assert server.publish(later.raw)[2] is False
    assert server.publish(ALICE.registration(NOW + 9).raw)[2] is False
    assert registered(server) == {ALICE.pubkey}
