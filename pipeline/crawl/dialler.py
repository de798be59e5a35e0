"""How a connection comes to be: dialled, then asked what the relay allows, in a thread that may wait for both."""

from typing import Final, Protocol

from pipeline.crawl.connection import Connection
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.reconnect import ConnectionResult
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.nostr.address import RelayAddress
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.nip11 import InvalidInformation, RelayInformation
from pipeline.relay.websocket import WebSocket

# What a relay's host answers itself, though not as it should.
_ANSWERS: Final = frozenset({DialReason.REFUSED, DialReason.TLS})


class Dialler(Protocol):
    """Opens connections; called from several threads at once."""

    def dial(self, address: RelayAddress, *, is_fast: bool) -> WebSocket:
        """An open websocket; raises `DialError`, within seconds where `is_fast`: the relay was lost a moment ago."""
        ...

    def information(self, address: RelayAddress) -> RelayInformation:
        """The relay's NIP-11 document; raises `InvalidInformation`."""
        ...


def begin(
    dialler: Dialler, address: RelayAddress, metrics: RelayMetrics, context: CrawlContext, *, is_fast: bool
) -> WebSocket | ConnectionResult:
    """Return the open websocket, or why there is none."""
    try:
        return dialler.dial(address, is_fast=is_fast)
    except DialError as error:
        metrics.not_dialled(error.reason)
        return ConnectionResult(
            "dial", str(error), status=error.status, retry_after_s=error.retry_after_s, permanent=error.permanent,
            is_local_fault=error.reason is DialReason.LOCAL, answered=error.reason in _ANSWERS,
            is_crowded=error.reason is DialReason.CROWDED, timed_out=error.reason is DialReason.TIMEOUT,
            by_request=error.reason is DialReason.CANCELLED,
        )  # fmt: skip
    except Exception as error:
        context.log.exception(type(error).__name__, "relay failed", relay=address.url)
        return ConnectionResult("unknown", type(error).__name__)


def inform(dialler: Dialler, address: RelayAddress, connection: Connection, context: CrawlContext) -> None:
    """Let `connection`, which is being served already, know what the relay says of itself, once a day."""
    if not connection.limits.is_stale(context.clock.now_ms() // 1000):
        return
    try:
        said = dialler.information(address).limits
    except InvalidInformation:
        if not context.may_ask(address.host_key):
            return
        said = None
    except Exception as error:
        context.log.exception(type(error).__name__, "information failed", relay=address.url)
        return
    connection.post_information(said)
