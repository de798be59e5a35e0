"""Whether and when a connection authenticates (NIP-42), as a state machine without I/O, clock or key."""

from enum import Enum, StrEnum

# Some relays send their challenge after the refusal, some say nothing when they accept an AUTH.
PATIENCE_S = 2.0
# Each answer is signed. A relay that demands more of them on one connection does not mean it.
MAX_ANSWERS = 50


class AuthState(StrEnum):
    """How a relay and we stand; a metric label."""

    NONE = "none"
    WANTED = "wanted"
    """It demands an AUTH that it does not get: there is no key, or no challenge to answer."""
    ACCEPTED = "accepted"
    REFUSED = "refused"


class AuthResult(Enum):
    """What became of an AUTH."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


class Authentication:
    """One connection's AUTH: wanted once the relay demands it, then challenged, answered and judged.

    A relay may be known by several addresses. An AUTH that names one and is refused is followed by one that names the
    next; only the refusal of the last is a verdict.
    """

    __slots__ = (
        "_addresses",
        "_answered",
        "_answers",
        "_challenge",
        "_deadline",
        "_event_id",
        "_is_possible",
        "address",
        "state",
    )

    def __init__(self, *, is_possible: bool, addresses: int = 1) -> None:
        """`addresses`: how many there are to be tried."""
        self.state = AuthState.NONE
        self.address = 0
        """Which of the addresses the next answer names."""
        self._addresses = addresses
        self._is_possible = is_possible
        self._challenge: str | None = None
        # The last challenge answered; each is answered once with each address.
        self._answered: str | None = None
        self._answers = 0
        self._event_id: bytes | None = None
        self._deadline: float | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a challenge or a verdict is waited for."""
        return self._deadline is not None

    @property
    def deadline(self) -> float | None:
        """When waiting is over."""
        return self._deadline

    def on_challenge(self, challenge: str) -> None:
        """Note the relay's newest challenge."""
        self._challenge = challenge

    def on_auth_required(self, now: float) -> bool:
        """The relay demands an AUTH; returns whether it is going to get one that it has not had."""
        if self.is_under_way:
            return True
        if (
            not self._is_possible
            or self._answers >= MAX_ANSWERS
            or (self._challenge is not None and self._challenge == self._answered)
        ):
            if self.state is AuthState.NONE:
                self.state = AuthState.WANTED
            return False
        self._deadline = now + PATIENCE_S
        return True

    def pending_challenge(self) -> str | None:
        """The challenge that should be answered now, if there is one."""
        is_due = self.is_under_way and self._event_id is None and self._challenge != self._answered
        return self._challenge if is_due else None

    def on_answered(self, event_id: bytes, now: float) -> None:
        """The AUTH event with this id was sent in answer to the newest challenge."""
        self._answered = self._challenge
        self._answers += 1
        self._event_id = event_id
        self._deadline = now + PATIENCE_S

    def on_ok(self, event_id: bytes, *, accepted: bool) -> AuthResult | None:
        """Take an OK; `None` if it is about something else, or if another address is to be tried."""
        if event_id != self._event_id:
            return None
        if not accepted and self.address + 1 < self._addresses:
            self.address += 1
            self._answered = self._event_id = None
            return None
        return self._settle(AuthResult.ACCEPTED if accepted else AuthResult.REFUSED)

    def on_timeout(self, now: float) -> AuthResult | None:
        """What waiting to its end comes to; `None` while there is time left."""
        if self._deadline is None or now < self._deadline:
            return None
        # nostr-rs-relay says nothing when it accepts.
        return self._settle(AuthResult.REFUSED if self._event_id is None else AuthResult.ACCEPTED)

    def postpone(self, now: float) -> None:
        """Wait anew, after a pause in which nothing was read."""
        if self._deadline is not None:
            self._deadline = max(self._deadline, now + PATIENCE_S)

    def _settle(self, result: AuthResult) -> AuthResult:
        if result is AuthResult.ACCEPTED:
            self.state = AuthState.ACCEPTED
        else:
            self.state = AuthState.WANTED if self._event_id is None else AuthState.REFUSED
        self._deadline = self._event_id = None
        return result
