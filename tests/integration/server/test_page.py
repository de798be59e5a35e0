"""The status page: who gets it, what it shows, and that a stranger's text stays text."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.commands.status import page_url
from pipeline.nostr.event import event_from_json
from pipeline.process.page_token import read_page_token
from pipeline.store import drops, hosts, inbox, relay_candidates, relay_mentions, relay_status, throughput, users
from pipeline.store.drops import Drop
from pipeline.store.events import Accepted
from pipeline.store.hosts import HostState
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter
from pipeline.store.relay_status import RelayState, RelayStatus
from tests.factories.events import SignedEvent, authors
from tests.fakes.browser import Browser, is_installed
from tests.integration.server.harness import Answer, Running, running
from tests.support.stored import store_with_payloads

HTML = {"Accept": "text/html,application/xhtml+xml"}
HOSTILE = "<script>document.title='stolen'</script><img src=http://127.0.0.9/x onerror=alert(1)>\"'"
EVENT = "ab" * 32

AXE = Path(__file__).resolve().parents[3] / ".peers" / "node" / "node_modules" / "axe-core" / "axe.min.js"

needs_browser = pytest.mark.skipif(not is_installed(), reason="chromium and chromium-driver are not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as stage:
        yield stage


def fill(server: Running) -> None:
    """Three relays, an event given up and one refused, and some minutes of samples."""
    now = server.clock.now_ms()
    with server.database() as database, database.write() as tx:
        for number, state in enumerate((RelayState.CONNECTED, RelayState.DISCONNECTED, RelayState.BACKPRESSURED), 1):
            relay_mentions.record_mention(
                tx, f"wss://r{number}.example", source="relay-list", author=1, is_user=True, now=now
            )
            relay_status.start_crawling(tx, [number], now)
            status = RelayStatus(number, "", state, now, number, 0, 0, 0, HOSTILE if number == 2 else "")
            relay_status.put_statuses(tx, [status])
        relay_candidates.add_first_seen(tx, {1: 5, 2: 900, 3: 70}, now)
        drops.append(tx, [Drop(bytes.fromhex(EVENT), "invalid-hash", 1)], now)
        inbox.append(tx, [Arrival(b"\2" * 32, b"{}", 1, now, 1)])
        (row,) = inbox.claim(tx, now=now, lease=1, limit=1)
        inbox.queue.dead_letter(tx, [DeadLetter(row.receipt, HOSTILE)], now)
        users.register(tx, b"\3" * 32, now)
        for ago in range(20, 0, -1):
            throughput.put(tx, throughput.Sample(now - ago * 10_000, 1000 - ago * 50, 900 - ago * 45, ago, 12, 40))


def page(server: Running, path: str = "/", **headers: str) -> Answer:
    """What a browser gets that was opened by `status --url` before."""
    token = read_page_token(server.config.runtime_directory)
    kept = {"Cookie": f"other=1; event-service-token={token}"}
    return server.get(path, {**HTML, **kept, "Host": f"{server.host}:{server.port}", **headers})


def opened(server: Running) -> str:
    """What `status --url` prints."""
    return page_url(server.config)


def test_a_browser_here_gets_the_page(server: Running) -> None:
    fill(server)
    answer = page(server)
    text = answer.body.decode()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for shown in (
        "wss://r1.example",
        "backpressured",
        "server-0",
        "outbox-pubsub",
        "1 registered user ",
        "Dead letters",
    ):
        assert shown in text


def test_a_stranger_s_text_is_text(server: Running) -> None:
    fill(server)
    text = page(server, f"/?q=&event={'%3Cscript%3E'}").body.decode()
    assert "<script>document" not in text
    assert "&lt;script&gt;document" in text
    assert text.count("<script>") == 1


def test_nothing_but_our_own_script_and_style_may_run(server: Running) -> None:
    policy = page(server).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http:" not in policy


def test_coverage_of_a_user_is_shown_to_who_may_see_the_page(server: Running) -> None:
    fill(server)
    path = f"/?user={'03' * 32}&q=r1"
    text = page(server, path).body.decode()
    shown = text[text.index('id="coverage"') :]
    assert "Coverage by relay" in shown
    assert "wss://r1.example" in shown
    assert 'name="user" value="0303' in text
    assert "&amp;user=0303" in text
    assert b"Coverage by relay" not in page(server, path, Cookie="").body


@pytest.mark.parametrize(
    ("user", "said"),
    [("ab" * 32, "Not wanted"), ("%3Cscript%3Ealert(1)", "not a public key"), ("npub1x", "not a public key")],
)
def test_what_is_no_user_is_said_and_stays_text(server: Running, user: str, said: str) -> None:
    text = page(server, f"/?user={user}").body.decode()
    assert said in text
    assert "<script>alert" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"}, {"Host": "rebound.example"}, {"Cookie": ""}, {"Cookie": "event-service-token="},
        {"Cookie": "event-service-token=guessed"},
    ],
)  # fmt: skip
def test_nobody_else_gets_it(server: Running, headers: dict[str, str]) -> None:
    """They are told what else there is."""
    answer = page(server, **headers)
    assert (answer.status, b"kind 6666" in answer.body) == (200, True)


def test_token_opens_the_page_once_and_a_cookie_from_then_on(server: Running) -> None:
    query = "/" + opened(server).rpartition("/")[2]
    assert page(server, "/?token=guessed", Cookie="").headers.get("set-cookie") is None
    first = page(server, query, Cookie="")
    assert b"Dead letters" in first.body
    cookie, _, attributes = first.headers["set-cookie"].partition(";")
    assert attributes.split() == ["Path=/;", "HttpOnly;", "SameSite=Strict"]
    assert b"Dead letters" in page(server, Cookie=cookie).body


def test_token_is_readable_by_the_service_user_only_and_stays(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        before, path = opened(server), server.config.runtime_directory / "page-token"
        assert path.stat().st_mode & 0o777 == 0o600
    with running(tmp_path) as server:
        assert opened(server).partition("?")[2] == before.partition("?")[2]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_visitor_through_a_trusted_proxy_is_not_local(tmp_path: Path, header: str) -> None:
    """Without the setting such headers count for nothing: the token alone decides."""
    with running(tmp_path, EVENTS_TRUSTED_PROXIES="127.0.0.0/8") as server:
        assert b"Dead letters" not in page(server, **{header: "8.8.8.8"}).body
        assert b"Dead letters" in page(server).body
    with running(tmp_path) as server:
        assert b"Dead letters" in page(server, **{header: "8.8.8.8"}).body


def test_it_can_be_opened_to_everyone_or_closed(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_STATUS_PAGE="everyone") as server:
        assert page(server, Host="events.example", **{"X-Forwarded-For": "8.8.8.8"}).status == 200
    with running(tmp_path, EVENTS_STATUS_PAGE="off") as server:
        assert b"kind 6666" in page(server).body


def test_a_websocket_on_the_same_path_is_a_websocket(server: Running) -> None:
    with server.websocket(header=["Accept: text/html"]) as client:
        assert client.connected


def test_relays_are_searched_and_sorted(server: Running) -> None:
    fill(server)
    by_novel = page(server, "/?sort=-novel").body.decode()
    by_address = page(server, "/?sort=address").body.decode()
    assert by_novel.index("wss://r2.example") < by_novel.index("wss://r3.example") < by_novel.index("wss://r1.example")
    assert by_address.index("wss://r1.example") < by_address.index("wss://r2.example")
    found = page(server, "/?q=BACKpressured").body.decode()
    assert "wss://r3.example" in found
    assert "wss://r1.example" not in found


def test_the_fate_of_an_event_is_told(server: Running) -> None:
    fill(server)
    assert "from wss://r1.example: invalid-hash" in page(server, f"/?event={EVENT}").body.decode()
    assert "This is not an event id." in page(server, "/?event=nonsense").body.decode()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@needs_browser
def test_hosts_are_shown_at_home_at_any_width(server: Running) -> None:
    fill(server)
    now = server.clock.now_ms()
    made = [HostState(name, "1.0.0", False, now, -4, 0, 0, 0, 3, now) for name in ("ams1", "fra1")]
    with server.database() as database, database.write() as tx:
        hosts.put(tx, made)
    for width in (500, 1280):
        with Browser(width=width) as browser:
            browser.open(opened(server))
            browser.wait("return document.querySelectorAll('#hosts tbody tr').length === 2")
            assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
            rows = "document.querySelectorAll('#hosts tbody tr')"
            assert "+0.0 s" in browser.run(f"return {rows}[1].innerText")
            lines = f"[...{rows}[1].cells].map(cell => getComputedStyle(cell).borderBottomWidth)"
            assert set(browser.run(f"return {lines}")) == {"0px"}, "no line below the last row"
            assert browser.complaints() == []


@needs_browser
def test_a_browser_shows_it_and_keeps_it_fresh(server: Running, browser: Browser) -> None:
    """What is typed stays and keeps the focus while the page follows; nothing is fetched, refused or stolen."""
    fill(server)
    browser.open(opened(server))
    browser.type_into("#q", "r2")
    browser.wait("return document.querySelectorAll('.relays tbody tr').length", lambda rows: rows == 1)
    with server.database() as database, database.write() as tx:
        relay_mentions.record_mention(tx, "wss://r22.example", source="relay-list", author=1, is_user=True, now=1)
        relay_status.start_crawling(tx, [4], 1)
    browser.wait("return document.querySelectorAll('.relays tbody tr').length", lambda rows: rows == 2)
    assert browser.run("return [document.activeElement.id, document.getElementById('q').value]") == ["q", "r2"]
    assert browser.run("return document.title") != "stolen"
    assert [each for each in browser.complaints() if "favicon" not in each] == []


@needs_browser
def test_a_click_on_a_heading_sorts(server: Running, browser: Browser) -> None:
    fill(server)
    browser.open(opened(server))
    first = "return document.querySelector('.relays tbody th.address').textContent"
    assert browser.run(first) == "wss://r2.example"
    browser.click(".relays th:first-child a")
    browser.wait(first, lambda address: address == "wss://r1.example")


@needs_browser
def test_a_phone_need_not_be_scrolled_sideways(server: Running) -> None:
    """Only the wide tables scroll, each in its own place."""
    fill(server)
    with Browser(width=390, height=800, dark=True) as phone:
        phone.open(opened(server))
        width, inner = phone.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        ground = phone.run("return getComputedStyle(document.body).backgroundColor")
    assert width <= inner
    assert ground == "rgb(23, 22, 21)"


def crowd(server: Running, count: int) -> None:
    with server.database() as database, database.write() as tx:
        for number in range(1, count + 1):
            relay_mentions.record_mention(
                tx, f"wss://r{number:04}.example", source="relay-list", author=1, is_user=True, now=1
            )
            relay_status.start_crawling(tx, [number], 1)


def save(server: Running, *events: SignedEvent) -> None:
    """Events as the saver stores them, the first of which the sink had after 40 ms."""
    now = server.clock.now_ms()
    with server.database() as database, database.write() as tx:
        for number, event in enumerate(events, 1):
            event_id, raw = bytes.fromhex(event.id), event_from_json(event.raw.encode()).to_json()
            stored = Accepted(number, event_id, event.created_at, event.kind, 1, raw, 1, now, 1)
            store_with_payloads(tx, [stored])
        tx.execute("INSERT INTO deliveries VALUES (1, 'pubsub', 'delivered', ?)", (now + 40,))


def test_a_thousand_relays_come_by_pages(server: Running) -> None:
    crowd(server, 1000)
    shown: list[str] = []
    for number in range(1, 11):
        text = page(server, f"/?sort=address&page={number}").body.decode()
        assert f"page {number} of 10" in text
        shown += re.findall(r'<th scope="row" class="address">([^<]+)', text)
    assert shown == [f"wss://r{number:04}.example" for number in range(1, 1001)]
    assert "page 10 of 10" in page(server, "/?page=99").body.decode()
    assert "page 1 of" not in page(server, "/?q=r0001").body.decode()


def test_the_newest_events_can_be_traced_from_the_first_minute(server: Running) -> None:
    author, other = authors(81, 2)
    with server.database() as database, database.write() as tx:
        users.register(tx, bytes.fromhex(author.pubkey), 1)
    events = [author.sign("hello", created_at=1_700_000_000), other.sign("{}", kind=0, created_at=1_700_000_001)]
    save(server, *events)
    text = page(server).body.decode()
    assert text.index(events[1].id[:16]) < text.index(events[0].id[:16]), "the newest first"
    for shown in ("40 ms", "pending", "its author is a registered user", "kind 0 is relevant from every author"):
        assert shown in text
    assert "its author is a registered user" in page(server, f"/?event={events[0].id}").body.decode()


@needs_browser
def test_a_refresh_keeps_focus_selection_and_scroll(server: Running, browser: Browser) -> None:
    fill(server)
    browser.open(opened(server))
    browser.run("document.querySelector('.relays th:nth-child(3) a').focus()")
    browser.run("window.marked = document.getElementById('queues'); getSelection().selectAllChildren(marked)")
    with server.database() as database, database.write() as tx:
        relay_mentions.record_mention(tx, "wss://r4.example", source="relay-list", author=1, is_user=True, now=1)
        relay_status.start_crawling(tx, [4], 1)
        users.register(tx, b"\4" * 32, 1)
    browser.wait("return document.querySelectorAll('.relays tbody tr').length", lambda rows: rows == 4)
    assert "sort=" in browser.run("return document.activeElement.getAttribute('href')")
    assert browser.run("return marked.isConnected && getSelection().toString().includes('outbox-pubsub')")
    browser.run("getSelection().removeAllRanges()")
    browser.wait("return document.getElementById('queues').textContent.includes('2 registered users')")


@needs_browser
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("relay_count", [0, 3, 1000])
def test_nothing_bars_anybody_from_reading_it(server: Running, relay_count: int, dark: bool) -> None:
    """By axe-core's rules: nothing serious, on a desk and on a phone."""
    if relay_count == 3:
        fill(server)
    else:
        crowd(server, relay_count)
    for width in (1280, 390):
        with Browser(width=width, dark=dark) as reader:
            reader.open(opened(server))
            reader.run(AXE.read_text())
            reader.run("axe.run().then((found) => { window.found = found; })")
            rules = reader.wait("return window.found && window.found.passes.length", lambda passed: passed is not None)
            assert rules > 10
            violations = reader.run("return window.found.violations")
            serious = [
                (each["id"], [node["html"] for node in each["nodes"]])
                for each in violations
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == []
