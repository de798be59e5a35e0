"""One relay's row, kept up with its connection: its state, its last refusal, how it is asked, what it allows."""

from dataclasses import replace

from pipeline.crawl.ingester import Batch, Ingester
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.auth import addresses_for_auth
from pipeline.process.clock import Clock
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.store.relay_status import RelayState, RelayStatus

_MAX_ERROR_CHARS = 200


class StatusRecorder:
    """Writes through the intake whatever differs from what was last written. Owned by the connection."""

    __slots__ = (
        "_clock",
        "_host",
        "_ingester",
        "_learned",
        "_session",
        "_status",
        "_sync",
        "_told",
        "_written",
        "auth_addresses",
    )

    def __init__(
        self, relay: int, address: RelayAddress, session: Session, sync: RelaySync, host: HostBackoff,
        ingester: Ingester, clock: Clock,
    ) -> None:  # fmt: skip
        self.auth_addresses = addresses_for_auth(address)
        """What the relay may want to be called in an AUTH, in the order in which they are tried."""
        self._session = session
        self._sync = sync
        self._host = host
        self._ingester = ingester
        self._clock = clock
        # Limits as last written down, and as last looked at.
        self._written = self._learned = session.limits
        self._status = RelayStatus(
            relay, address.url, RelayState.CONNECTED, 0, 0, 0, 0, 0, "", dialled=address.spelling
        )
        self._told = ""

    @property
    def address(self) -> str:
        """The relay's, in canonical form."""
        return self._status.address

    def learn(self, limits: RelayLimits) -> None:
        """Let the session go by `limits`, which no refusal of this connection taught."""
        self._session.learn(limits)
        self._learned = limits

    def note_resolved(self, address: str) -> None:
        """Write down with the next state to which IP address the relay's name led; empty where that is not known."""
        self._status = replace(self._status, resolved=address)

    def on_refused(self, refusal: RelayRefusal, detail: str) -> None:
        """The relay refused something; one of each kind in a row is enough to be told."""
        if not self._status.last_error.startswith(f"{refusal}: "):
            # The relay's own words mostly begin with the same.
            said = f"{refusal}: {detail.replace(f'{refusal}: ', '', 1)}"
            self._status = replace(self._status, last_error=said[:_MAX_ERROR_CHARS])

    def put(self, state: RelayState) -> None:
        """The relay is in `state` from now on."""
        now = self._clock.now_ms()
        self._status = replace(
            self._status,
            state=state,
            state_since=now,
            subscriptions=self._session.live_subscriptions,
            asked=self._sync.strategy.name,
            owed_since=self._sync.absences.since,
            is_resweeping=self._sync.is_resweeping,
            is_paced=self._is_paced(),
            rate_limit_backoff=self._host.remaining_ms(self._clock.monotonic()),
        )
        self._told = self._status.last_error
        self._ingester.submit(Batch(self._status.relay, now, status=self._status))

    def keep_up(self) -> None:
        """Write what has changed since."""
        session = self._session
        if session.limits != self._learned:
            self._learned = session.limits.dated(self._learned, self._clock.now_ms() // 1000)
            session.learn(self._learned)
        if session.limits != self._written:
            self._written = session.limits
            self._ingester.submit(Batch(self._status.relay, self._clock.now_ms(), limits=session.limits.to_json()))
        sync, status = self._sync, self._status
        told = (status.subscriptions, status.asked, self._told, status.owed_since)
        now = (session.live_subscriptions, sync.strategy.name, status.last_error, sync.absences.since)
        flags = (sync.is_resweeping, self._is_paced())
        if (*now, *flags) != (*told, status.is_resweeping, status.is_paced):
            self.put(self._status.state)

    def _is_paced(self) -> bool:
        return self._sync.costs.paced_since(self._clock.monotonic()) is not None
