"""What was learned of one relay's limits: held here alone, over all its connections. Pure."""

from pipeline.relay.limits import RelayLimits


class LearnedLimits:
    """The limits of one relay as they are known now. For one thread: the one that serves its connection."""

    __slots__ = ("now",)

    def __init__(self, limits: RelayLimits) -> None:
        self.now = limits
        """The limits to go by. `learn` replaces them, nothing else does."""

    def learn(self, limits: RelayLimits) -> None:
        """Go by `limits` from now on."""
        self.now = limits
