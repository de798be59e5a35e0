"""A headless Chromium, driven over WebDriver as its own driver speaks it; for pages on loopback only."""

import base64
import json
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fakes.child import Child
from tests.fakes.net import free_port, pause, wait_listening
from tests.fakes.peer import Peer
from tests.fakes.scratch import scratch_path

READY_TIMEOUT_S = 60.0
_HOST = "127.0.0.1"
_POLL_S = 0.05
_ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def is_installed() -> bool:
    """Whether Chromium and its driver are there (Debian: chromium, chromium-driver)."""
    return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


class Browser(Peer):
    """One window; `dark` prefers dark colours."""

    def __init__(self, *, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        self._port = free_port(_HOST)
        self._size = (width, height)
        self._dark = dark
        self._session = ""

    def start(self) -> None:
        """Start the driver and open a window."""
        with self._starting(Child(["chromedriver", f"--port={self._port}"])):
            wait_listening(_HOST, self._port, READY_TIMEOUT_S)
            arguments = [*_ARGUMENTS, f"--window-size={self._size[0]},{self._size[1]}"]
            arguments += [f"--user-data-dir={scratch_path('chromium')}"]
            arguments += ["--blink-settings=preferredColorScheme=0"] if self._dark else []
            options = {"args": arguments, "binary": shutil.which("chromium")}
            capabilities = {"browserName": "chrome", "goog:chromeOptions": options}
            wanted = {"capabilities": {"alwaysMatch": capabilities | {"goog:loggingPrefs": {"browser": "ALL"}}}}
            self._session = self._call("POST", "/session", wanted)["sessionId"]

    def kill(self) -> None:
        """Close the window, and end the driver."""
        if self._session:
            session, self._session = self._session, ""
            self._call("DELETE", f"/session/{session}")
        super().kill()

    def open(self, url: str) -> None:
        """Go to `url` and wait until it is loaded."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """What `script`, the body of a function, returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def type_into(self, selector: str, text: str) -> None:
        """Type `text` where `selector` points, as a person does."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        (number,) = element.values()
        self._ask("POST", f"/element/{number}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on what `selector` points to."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        (number,) = element.values()
        self._ask("POST", f"/element/{number}/click", {})

    def wait(self, script: str, found: Callable[[Any], bool] = bool, timeout_s: float = 60.0) -> Any:
        """Return what `script` returns once `found` likes it; raises `TimeoutError`."""
        deadline = monotonic() + timeout_s
        while not found(value := self.run(script)):
            if monotonic() > deadline:
                raise TimeoutError(f"{script} still returns {value!r}")
            pause(_POLL_S)
        return value

    def complaints(self) -> list[str]:
        """What the console has of errors, refusals by the page's own policy among them."""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """Keep what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{_HOST}:{self._port}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=READY_TIMEOUT_S) as answer:
            return json.load(answer)["value"]
