"""Connections to the web server that are there only to take the places of others."""

import socket
from contextlib import suppress
from time import time

from tests.tools.siege.attacks import attack
from tests.tools.siege.clients import PROXY
from tests.tools.siege.siege import Siege
from tests.tools.siege.visitors import VisitorProcess

_HEALTH_EVERY_S = 1.0
_ANSWERS_S = 10.0
_REFUSED = "event_service_stage_discarded_total"
_SMUGGLED = "/public-keys/" + "e" * 64
_REQUESTS = (
    # Two lengths, a length beside chunks, chunks under another name, a length that is none, a folded header.
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 60\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nX: y\r\n Content-Length: 60\r\n\r\n",
    "GET / HTTP/1.1\nHost: x\nContent-Length: 60\n\n",
    "GET / HTTP/1.1\r\nHost: x\r\nX-Bare: a\rContent-Length: 60\r\n\r\n",
)


def _occupy(siege: Siege, play: str, clients: int) -> None:
    """Let clients come for the time of the attack; the health check must be answered all the while."""
    service = siege.service
    crowd = VisitorProcess(play, service.host, service.port, seconds=siege.seconds, clients=clients)
    siege.begin()
    asked = answered = 0
    while siege.is_on:
        asked += 1
        with suppress(OSError):
            answered += bool(service.get("/_health")[0])
        siege.wait(_HEALTH_EVERY_S)
    refused = {each.labels["reason"]: each.value for each in service.scrape().samples(_REFUSED, stage="server")}
    siege.notes["refused by reason"] = ", ".join(f"{reason} {count:.0f}" for reason, count in refused.items() if count)
    siege.notes["visitors"] = ", ".join(f"{name} {count}" for name, count in crowd.wait().items())
    siege.require(answered == asked, f"the health check is answered: {answered} of {asked}")


@attack("silent-connections", "600 connections from this machine that say nothing")
def _silent(siege: Siege) -> None:
    _occupy(siege, "silent", siege.size(200, 600))


@attack("networks", "512 websockets of sixteen /64s of one /56, and more of others")
def _networks(siege: Siege) -> None:
    _occupy(siege, "networks", siege.size(200, 800))


@attack("addresses", "600 idle websockets, each from an IPv4 address of its own")
def _addresses(siege: Siege) -> None:
    _occupy(siege, "addresses", siege.size(200, 600))


@attack("slow-headers", "300 visitors whose headers never end")
def _slow_headers(siege: Siege) -> None:
    _occupy(siege, "slow-headers", siege.size(100, 300))


@attack("pings", "20 websockets that send pings as fast as they are read")
def _pings(siege: Siege) -> None:
    _occupy(siege, "pings", siege.size(5, 20))


@attack("scrapes", "30 visitors that ask for metrics, page and public keys without a pause")
def _scrapes(siege: Siege) -> None:
    _occupy(siege, "scrapes", siege.size(10, 30))


@attack("smuggling", "requests that a proxy and the service may take for different ones")
def _smuggling(siege: Siege) -> None:
    for request in _REQUESTS:
        answers = _answers(siege, request + f"GET {_SMUGGLED} HTTP/1.1\r\nHost: x\r\n\r\n")
        siege.require(answers.count(b"HTTP/1.1 ") <= 1, f"one answer to {request!r}")
        siege.require(b"followers" not in answers, f"no second request in {request!r}")
    siege.wait()


def _answers(siege: Siege, request: str) -> bytes:
    """Everything that the server answers until it ends the connection."""
    found = bytearray()
    service, until = siege.service, time() + _ANSWERS_S
    with suppress(OSError), socket.create_connection((service.host, service.port), _ANSWERS_S, (PROXY, 0)) as client:
        client.sendall(request.encode())
        while time() < until and (chunk := client.recv(65_536)):
            found += chunk
    return bytes(found)
