"""Who may become a user: anyone, the keys on a list, or those who prove work."""

from dataclasses import dataclass

from pipeline.nostr.event import Event
from pipeline.nostr.proof_of_work import proven_bits
from pipeline.server.limits import Rejected, RejectReason
from pipeline.settings.choices import RegistrationMode
from pipeline.settings.config import Config


@dataclass(frozen=True, slots=True)
class Admission:
    """The rule for new users; those who are registered may always renew."""

    max_users: int
    mode: RegistrationMode = RegistrationMode.OPEN
    keys: frozenset[bytes] = frozenset()
    """Who is admitted in mode `allowlist`."""
    bits: int = 0
    """The work that is asked for in mode `proof-of-work`."""

    def require(self, event: Event, users: int) -> None:
        """Raise `Rejected` unless the event may register its author beside `users` others."""
        if users >= self.max_users:
            raise Rejected(RejectReason.USERS)
        if self.mode is RegistrationMode.ALLOWLIST and event.pubkey not in self.keys:
            raise Rejected(RejectReason.NOT_LISTED)
        if self.mode is RegistrationMode.PROOF_OF_WORK and proven_bits(event) < self.bits:
            raise Rejected(RejectReason.WORK)

    @property
    def explanation(self) -> dict[RejectReason, str]:
        """Message to the client for each reason."""
        return {
            RejectReason.USERS: "restricted: no more users are taken",
            RejectReason.NOT_LISTED: "restricted: only keys that the operator listed can register",
            RejectReason.WORK: f"pow: {self.bits} bits of work are needed,"
            " in a nonce tag that commits to them (NIP-13)",
        }


def admission_of(config: Config) -> Admission:
    """Return the rule as an operator has set it."""
    listed = config.registration_allowlist
    keys = frozenset() if listed is None else listed.keys
    return Admission(config.max_users, config.registration, keys, config.registration_difficulty)
