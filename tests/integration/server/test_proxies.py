"""The reverse proxies of operating.md, as they stand there: clients are bounded one by one, whatever they claim."""

import contextlib
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import websocket

from pipeline.server.limits import DEFAULT_LIMITS
from tests.fakes.child import ROOT, Child
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.integration.server.harness import PATIENCE_S, Running, running

_NGINX = """daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{site}
}}
"""
_PROXY = "127.0.0.1"  # from where the kernel lets proxies connect
_VISITOR, _OTHER = "127.1.2.3", "127.1.2.4"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs."""

    host: str
    port: int

    def connect(self, visitor: str, claims: str) -> websocket.WebSocket:
        """A websocket from `visitor`, who claims to be forwarded for another."""
        sock = socket.create_connection((self.host, self.port), PATIENCE_S, source_address=(visitor, 0))
        return websocket.create_connection(
            f"ws://{self.host}:{self.port}/", socket=sock, header=[f"X-Forwarded-For: {claims}"]
        )


def example(language: str) -> str:
    """The configuration that operating.md shows."""
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "pipeline/docs/operating.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def proxied(name: str, server: Running, folder: Path, site: str | None = None) -> Iterator[Proxy]:
    """`name` in front of `server`, as operating.md has it unless `site` says otherwise."""
    host = loopback_address()
    proxy = Proxy(host, free_port(host))
    site = (site or example(name)).replace("127.0.0.1:8008", f"{server.host}:{server.port}")
    if name == "nginx":
        text = _NGINX.format(folder=folder, site=site.replace("listen 80;", f"listen {proxy.host}:{proxy.port};"))
        command = ["nginx", "-c"]
    else:
        address = f"http://:{proxy.port} {{\n    bind {proxy.host}"
        text = "{\n    admin off\n}\n" + site.replace("events.example.com {", address)
        command = ["caddy", "run", "--adapter", "caddyfile", "--config"]
    path = folder / f"{name}.conf"
    path.write_text(text)
    with Child([*command, str(path)], env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder)}):
        wait_listening(proxy.host, proxy.port, PATIENCE_S)
        yield proxy


def needs(name: str) -> None:
    if shutil.which(name, path="/usr/sbin:/usr/bin:/bin") is None:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_visitors_through_a_named_proxy_are_bounded_one_by_one(tmp_path: Path, name: str) -> None:
    needs(name)
    limits = replace(DEFAULT_LIMITS, connections_per_client=2)
    with (
        running(tmp_path, limits, EVENTS_TRUSTED_PROXIES=_PROXY) as server,
        proxied(name, server, tmp_path) as proxy,
        contextlib.ExitStack() as held,
    ):
        for claims in ("9.9.9.1", "9.9.9.2"):
            held.callback(proxy.connect(_VISITOR, claims).shutdown)
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            proxy.connect(_VISITOR, "9.9.9.3")
        assert refused.value.status_code == 503
        held.callback(proxy.connect(_OTHER, "9.9.9.1").shutdown)
        assert server.discarded("client-connections") == 1
        assert server.discarded("unnamed-proxy") == 0


def test_plain_nginx_shows_nobody_the_local_page(tmp_path: Path) -> None:
    """It adds no header at all, and comes from this machine with a local `Host`."""
    needs("nginx")
    plain = "server { listen 80; location / { proxy_pass http://127.0.0.1:8008; } }"
    with (
        running(tmp_path) as server,
        proxied("nginx", server, tmp_path, plain) as proxy,
        socket.create_connection((proxy.host, proxy.port), PATIENCE_S) as visitor,
    ):
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n")
        answer = visitor.makefile("rb").read()
    assert b"Dead letters" not in answer
    assert b"kind 6666" in answer
