"""One connection to one relay in its own thread: dialled, asked what it allows, read until it ends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from pipeline.crawl.connection import Connection, Shared
from pipeline.crawl.redial import Ending
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.nostr.address import RelayAddress
from pipeline.relay.errors import ConnectionLost, DialError, DialReason
from pipeline.relay.limits import Limits
from pipeline.relay.nip11 import InvalidInformation, RelayInformation
from pipeline.relay.transport import Transport


class Dialler(Protocol):
    """Opens connections; called from the threads of many relays at once."""

    def dial(self, address: RelayAddress) -> Transport:
        """An open websocket; raises `DialError`."""
        ...

    def information(self, address: RelayAddress) -> RelayInformation:
        """The relay's NIP-11 document; raises `InvalidInformation`."""
        ...


def serve(
    dialler: Dialler, address: RelayAddress, connection: Connection, metrics: RelayMetrics, shared: Shared,
    dialled: Callable[[], object],
) -> Ending:  # fmt: skip
    """Dial and read until the end, whatever it is. `dialled` is called once the websocket is open."""
    connected_at: float | None = None
    try:
        transport = dialler.dial(address)
        dialled()
        try:
            connection.learn(_informed(dialler, address, connection.limits, shared.clock.now_ms() // 1000))
            connected_at = shared.clock.monotonic()
            connection.run(transport)
            ending = Ending("closed", "closed by us", is_our_will=True)
        finally:
            transport.close()
    except DialError as error:
        metrics.not_dialled(error.reason)
        ending = Ending(
            "dial", str(error), status=error.status, permanent=error.permanent,
            is_our_fault=error.reason is DialReason.LOCAL,
        )  # fmt: skip
    except ConnectionLost as error:
        ending = Ending(error.reason, error.detail)
    except Exception as error:
        shared.log.exception(type(error).__name__, "relay failed", relay=address.url)
        ending = Ending("unknown", type(error).__name__)
    if connected_at is None:
        return ending
    lived = max(shared.clock.monotonic() - connected_at, 0.001)
    return replace(ending, lived=lived, was_of_use=connection.was_of_use)


def _informed(dialler: Dialler, address: RelayAddress, limits: Limits, now: int) -> Limits:
    """`limits`, once a day a step wider than refusals made them, and narrowed by the relay's own word, if any."""
    if not limits.is_stale(now):
        return limits
    try:
        said = dialler.information(address).limits
    except InvalidInformation:
        return limits.informed(now).widened(now) if limits.narrowed_at else limits.informed(now)
    limits = (
        limits.informed(now)
        .widened(now)
        .advertised(subscriptions=said.max_subscriptions, limit=said.max_limit, message_bytes=said.max_message_length)
    )
    return replace(limits, demands_auth=said.auth_required)
