"""Which connection yields its place to a newcomer when all places are taken. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occupant:
    """A connection that holds a place.

    `network`: whom its bounds count for, None for a neighbour. `reach`: see `ConnectionSlot.reach`. `is_session`: a
    websocket. `is_served`: its request has come and was not refused. `waiting_since`: since when a websocket waits for
    its client's next message.
    """

    network: str | None
    reach: int
    is_session: bool
    is_served: bool
    waiting_since: float | None


def first_to_yield(
    occupants: Sequence[Occupant],
    choose: Callable[[Sequence[int]], int],
    *,
    network: str | None,
    reach: int,
    latest: float,
    sessions_only: bool,
) -> int | None:
    """Return the index of the one that yields to a newcomer of `network`; None if none may.

    `occupants` stand in the order in which they came. The first of these yields:

    1. the oldest that has not asked for anything yet, or was refused and is not gone yet;
    2. the oldest waiting websocket of the network that has the most, if it has more than the newcomer's would have;
    3. any waiting websocket, if possible one that waits since before `latest`. `choose` had better pick by chance: in a
       crowd that always comes back, the oldest would always go before a distant client's first message is here.

    A client that may take more of the reserves than the newcomer never yields to it.
    """
    allowed = [
        index for index, each in enumerate(occupants) if each.reach <= reach and (each.is_session or not sessions_only)
    ]
    if not sessions_only and (unserved := _unserved(occupants, allowed)) is not None:
        return unserved
    waiting = [index for index in allowed if occupants[index].waiting_since is not None]
    of_largest = _of_largest(occupants, waiting, network)
    if of_largest is not None:
        return of_largest
    settled = [index for index in waiting if (occupants[index].waiting_since or 0.0) < latest]
    return choose(settled or waiting) if waiting else None


def _unserved(occupants: Sequence[Occupant], allowed: Sequence[int]) -> int | None:
    return next((index for index in allowed if not occupants[index].is_served), None)


def _of_largest(occupants: Sequence[Occupant], waiting: Sequence[int], network: str | None) -> int | None:
    held = Counter(each.network for each in occupants if each.is_session)
    own = held[network] + 1
    sizes = {index: held[occupants[index].network] for index in waiting if occupants[index].network is not None}
    largest = max(sizes.values(), default=0)
    return next((index for index, size in sizes.items() if size == largest), None) if largest > own else None
