"""What a connection asks for while it authenticates (NIP-42). Pure; times are monotonic seconds.

When an AUTH is due and what became of it is `authentication.py`. Here is what follows for the requests: those that the
relay refuses until then, or ends during it, are held and asked for once more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.nostr.event import Event
from pipeline.nostr.message import encode_auth
from pipeline.relay.authentication import Authentication, AuthResult, AuthState
from pipeline.relay.limit_inference import after_refusal
from pipeline.relay.refusals import Complaint, RelayRefusal, is_left_out, is_withheld
from pipeline.relay.requests import Requests
from pipeline.relay.subscription import LiveEnded, PageEnded, PendingAuth, Subscription


@dataclass(frozen=True, slots=True)
class AuthWanted:
    """The relay wants this challenge answered (NIP-42), by a call of `Session.authenticate` at once.

    `address`: which of the relay's addresses the answer names.
    """

    challenge: str
    address: int = 0


class SessionAuth:
    """The AUTH of one connection and the requests that wait for it."""

    __slots__ = ("_auth", "_requests")

    def __init__(self, requests: Requests, *, is_possible: bool, addresses: int) -> None:
        """`addresses`: how many there are to be named in an answer."""
        self._requests = requests
        self._auth = Authentication(is_possible=is_possible, addresses=addresses)

    @property
    def state(self) -> AuthState:
        """How the relay and we stand on AUTH."""
        return self._auth.state

    @property
    def deadline(self) -> float | None:
        """When waiting for a challenge or an OK is over."""
        return self._auth.deadline

    def on_challenge(self, challenge: str, now: float) -> Iterator[AuthWanted]:
        """Note the relay's newest challenge, and answer it if it is to be."""
        self._auth.on_challenge(challenge)
        # A relay known to want it may give less, rather than refuse, before it has it.
        if self._auth.is_under_way or (self._requests.limits.demands_auth and self._auth.on_auth_required(now)):
            yield from self.answer_challenge()

    def answer_challenge(self) -> Iterator[AuthWanted]:
        """Have the challenge answered that is pending, if there is one."""
        challenge = self._auth.pending_challenge()
        if challenge is not None:
            yield AuthWanted(challenge, self._auth.address)

    def send(self, event: Event, now: float) -> None:
        """Send `event` in answer to the challenge that was last asked for."""
        self._auth.on_answered(event.id, now)
        self._requests.subscriptions.outgoing.append(encode_auth(event))

    def on_ok(
        self, event_id: bytes, reason: str, now: float, *, accepted: bool
    ) -> Iterator[PageEnded | LiveEnded | AuthWanted]:
        """Take an OK; where another address is to be named, that follows."""
        yield from self._end(self._auth.on_ok(event_id, accepted=accepted), reason, now)
        yield from self.answer_challenge()

    def on_timeout(self, now: float) -> Iterator[PageEnded | LiveEnded]:
        """End an AUTH that the relay says nothing more about."""
        yield from self._end(self._auth.on_timeout(now), "no challenge to answer", now)

    def postpone(self, now: float) -> None:
        """Restart waiting, after a pause in which nothing was read."""
        self._auth.postpone(now)

    # The requests that wait.

    def holds_refused(self, refused: Subscription, reason: str, now: float) -> bool:
        """Hold what the relay refuses until we have authenticated; returns False if that does not come."""
        self._requests.learn(replace(self._requests.limits, demands_auth=True))
        is_for_some = bool(refused.count) or is_withheld(reason)
        refused.is_withheld = refused.selects_confidential and is_for_some
        refused.has_left_out = refused.is_withheld and is_left_out(reason)
        if refused.was_held or self._is_vain(refused) or not self._auth.on_auth_required(now):
            return False
        refused.hold = PendingAuth.REFUSED
        return True

    def _is_vain(self, refused: Subscription) -> bool:
        """Whether a page that is whole but for what is withheld need not wait: no challenge came the last time."""
        is_idle = self._auth.state is AuthState.WANTED and not self._auth.is_under_way
        return is_idle and refused.is_page and refused.has_left_out and self._requests.limits.gives_shown

    def holds_ended(self, page: Subscription) -> bool:
        """Hold a page that ended well while an AUTH is under way, perhaps with less than an authenticated client gets.

        Returns False if it is over.
        """
        if not self._auth.is_under_way or page.was_held:
            return False
        page.hold = PendingAuth.ENDED
        return True

    def as_whole(self, refused: Subscription) -> PageEnded | None:
        """Return the end of a page whose relay gave all of it but what it withholds; `None` if it may have given less.

        It says that it left out some of the events that match, and gave others here, or on another such page.
        """
        limits = self._requests.limits
        if not (refused.is_page and refused.has_left_out and (refused.count or limits.gives_shown)):
            return None
        self._requests.learn(replace(limits, withholds=True, gives_shown=True))
        return refused.ended()

    def _end(self, result: AuthResult | None, reason: str, now: float) -> Iterator[PageEnded | LiveEnded]:
        """Ask for what was held once more; what was refused before an AUTH that failed stays refused."""
        if result is None:
            return
        subscriptions = self._requests.subscriptions
        for each in [each for each in subscriptions if each.hold is not None]:
            if result is AuthResult.REFUSED and each.hold is PendingAuth.REFUSED:
                if not subscriptions.end(each, now):
                    continue
                if (whole := self.as_whole(each)) is not None:
                    yield whole
                    continue
                refusal = RelayRefusal.WITHHELD if each.is_withheld else RelayRefusal.AUTH_REQUIRED
                limits = after_refusal(self._requests.limits, Complaint(refusal), (each,), subscriptions.at_relay)
                self._requests.learn(limits)
                yield each.refused(refusal, reason)
                continue
            if (again := self._requests.ask_again(each, now)) is not None:
                again.was_held = True
