"""How a connection comes to be: dialled, and the relay asked what it allows, in a thread that may wait for both."""

from typing import Final, Protocol

from pipeline.crawl.connection import Connection
from pipeline.crawl.redial import Ending
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.shared import Shared
from pipeline.nostr.address import RelayAddress
from pipeline.relay.channel import Channel
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.limits import Limits
from pipeline.relay.nip11 import InvalidInformation, RelayInformation

# What a relay's host answers itself, though not as it should.
_ANSWERS: Final = frozenset({DialReason.REFUSED, DialReason.TLS})


class Dialler(Protocol):
    """Opens connections; called from several threads at once."""

    def dial(self, address: RelayAddress) -> Channel:
        """An open websocket; raises `DialError`."""
        ...

    def information(self, address: RelayAddress) -> RelayInformation:
        """The relay's NIP-11 document; raises `InvalidInformation`."""
        ...


def begin(
    dialler: Dialler, address: RelayAddress, connection: Connection, metrics: RelayMetrics, shared: Shared
) -> Channel | Ending:
    """The open websocket, of which `connection` knows what it allows; or why there is none."""
    channel: Channel | None = None
    try:
        channel = dialler.dial(address)
        connection.learn(_informed(dialler, address, connection.limits, shared.clock.now_ms() // 1000))
    except DialError as error:
        metrics.not_dialled(error.reason)
        return Ending(
            "dial", str(error), status=error.status, retry_after_s=error.retry_after_s, permanent=error.permanent,
            is_our_fault=error.reason is DialReason.LOCAL, answered=error.reason in _ANSWERS,
        )  # fmt: skip
    except Exception as error:
        shared.log.exception(type(error).__name__, "relay failed", relay=address.url)
        if channel is not None:
            channel.close()
        return Ending("unknown", type(error).__name__)
    return channel


def _informed(dialler: Dialler, address: RelayAddress, limits: Limits, now: int) -> Limits:
    """`limits`, once a day a step wider than refusals made them, and narrowed by the relay's own word, if any."""
    if not limits.is_stale(now):
        return limits
    try:
        said = dialler.information(address).limits
    except InvalidInformation:
        return limits.informed(now).widened(now)
    return limits.informed(now).widened(now).advertised(said)
