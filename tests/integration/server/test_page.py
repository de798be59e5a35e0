"""The status page: who gets it, what it shows, and that a stranger's text stays text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import drops, inbox, monitored, relays, samples
from pipeline.store.drops import Drop
from pipeline.store.inbox import Arrival
from pipeline.store.lease import Burial
from pipeline.store.relays import RelayState, RelayStatus
from tests.fakes.browser import Browser, is_installed
from tests.integration.server.harness import Answer, Running, running

HTML = {"Accept": "text/html,application/xhtml+xml"}
HOSTILE = "<script>document.title='stolen'</script><img src=http://127.0.0.9/x onerror=alert(1)>\"'"
EVENT = "ab" * 32

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
            relays.name(tx, f"wss://r{number}.example", source="relay-list", author=1, is_user=True, now=now)
            relays.start_crawling(tx, [number], now)
            status = RelayStatus(number, "", state, now, number, 0, 0, 0, HOSTILE if number == 2 else "")
            relays.put_statuses(tx, [status])
        relays.add_novel(tx, {1: 5, 2: 900, 3: 70}, now)
        drops.append(tx, [Drop(bytes.fromhex(EVENT), "invalid-hash", 1)], now)
        inbox.append(tx, [Arrival(b"\2" * 32, b"{}", 1, now, 1)])
        (row,) = inbox.claim(tx, now=now, lease=1, limit=1)
        inbox.queue.bury(tx, [Burial(row.receipt, HOSTILE)], now)
        monitored.register(tx, b"\3" * 32, now)
        for ago in range(20, 0, -1):
            samples.put(tx, samples.Sample(now - ago * 10_000, 1000 - ago * 50, 900 - ago * 45, ago, 12, 40))


def page(server: Running, path: str = "/", **headers: str) -> Answer:
    return server.get(path, {**HTML, "Host": f"{server.host}:{server.port}", **headers})


def test_a_browser_here_gets_the_page(server: Running) -> None:
    fill(server)
    answer = page(server)
    text = answer.body.decode()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for shown in ("wss://r1.example", "backpressured", "server-0", "outbox-pubsub", "1 registered users", "Given up"):
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


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"}, {"Host": "rebound.example"}, {"X-Forwarded-For": "8.8.8.8"}, {"Via": "1.1 proxy"},
        {"Forwarded": "for=8.8.8.8"},
    ],
)  # fmt: skip
def test_nobody_else_gets_it(server: Running, headers: dict[str, str]) -> None:
    """They are told what else there is."""
    answer = page(server, **headers)
    assert (answer.status, b"kind 6666" in answer.body) == (200, True)


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
    assert "That is no event id." in page(server, "/?event=nonsense").body.decode()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@needs_browser
def test_a_browser_shows_it_and_keeps_it_fresh(server: Running, browser: Browser) -> None:
    """What is typed stays and keeps the focus while the page follows; nothing is fetched, refused or stolen."""
    fill(server)
    browser.open(server.url.replace("ws://", "http://"))
    browser.type_into("#q", "r2")
    browser.wait("return document.querySelectorAll('.relays tbody tr').length", lambda rows: rows == 1)
    with server.database() as database, database.write() as tx:
        relays.name(tx, "wss://r22.example", source="relay-list", author=1, is_user=True, now=1)
        relays.start_crawling(tx, [4], 1)
    browser.wait("return document.querySelectorAll('.relays tbody tr').length", lambda rows: rows == 2)
    assert browser.run("return [document.activeElement.id, document.getElementById('q').value]") == ["q", "r2"]
    assert browser.run("return document.title") != "stolen"
    assert [each for each in browser.complaints() if "favicon" not in each] == []


@needs_browser
def test_a_click_on_a_heading_sorts(server: Running, browser: Browser) -> None:
    fill(server)
    browser.open(server.url.replace("ws://", "http://"))
    first = "return document.querySelector('.relays td.address').textContent"
    assert browser.run(first) == "wss://r2.example"
    browser.click(".relays th:first-child a")
    browser.wait(first, lambda address: address == "wss://r1.example")


@needs_browser
def test_a_phone_need_not_be_scrolled_sideways(server: Running) -> None:
    """Only the wide tables scroll, each in its own place."""
    fill(server)
    with Browser(width=390, height=800, dark=True) as phone:
        phone.open(server.url.replace("ws://", "http://"))
        width, inner = phone.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        ground = phone.run("return getComputedStyle(document.body).backgroundColor")
    assert width <= inner
    assert ground == "rgb(23, 22, 21)"
