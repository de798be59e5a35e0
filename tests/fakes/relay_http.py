"""The plain HTTP side of a scripted relay: NIP-11 and refused handshakes."""

import json
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.fakes.behaviour import Behaviour, Upgrade

EARLY_ANSWER = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


def plain_headers(request: Request) -> dict[str, str]:
    """Headers by lowercase name."""
    return {name.lower(): value for name, value in request.headers.raw_items()}


def wants_websocket(request: Request) -> bool:
    """Whether it is a handshake."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def nip11_response(request: Request, behaviour: Behaviour) -> Response:
    """The document, for exactly the header that strfry and khatru compare with."""
    document = behaviour.nip11
    if document is None or request.headers.get("Accept") != "application/nostr+json":
        return _response(HTTPStatus.NOT_FOUND, "no such thing here", "text/plain")
    text = document if isinstance(document, str) else json.dumps(document)
    return _response(HTTPStatus.OK, text, "application/nostr+json")


def refused_upgrade(upgrade: Upgrade) -> Response:
    """What a handshake gets by script."""
    response = _response(HTTPStatus(upgrade.status), "refused", "text/plain")
    for name, value in upgrade.headers:
        response.headers[name] = value
    return response


def _response(status: HTTPStatus, body: str, content_type: str) -> Response:
    raw = body.encode()
    headers = Headers([("Content-Type", content_type), ("Content-Length", str(len(raw))), ("Connection", "close")])
    return Response(status.value, status.phrase, headers, raw)
