"""What goes wrong between hosts, each as a generator: it breaks something, yields for how long (s), and ends it.

Each takes longer than the leases that it is to outlive. One at a time; processes are killed beside them.
"""

import shutil
from collections.abc import Callable, Generator
from time import monotonic

from tests.tools.chaos.hub.installation import Installation

Play = Generator[float, None, None]
# The hub loses so much.
WENT_BACK_S = 5.0
LEAST_WAITING = 100
_FLOOD = 8.0
# In which others notice, and ask.
_TAKE_OVER_S = 12.0
_PILE_UP_S = 4.0
_STEP_S = 0.02
_GIVE_UP_S = 60.0
_COPY_AGE_S = 10.0


def pile_up(made: Installation) -> Play:
    """Stop each uplink for a moment when its host has the first events, so that history fills several parcels."""
    left = list(made.edges)
    began = monotonic()
    while left and monotonic() - began < _GIVE_UP_S:
        for edge in [each for each in left if made.waiting(each)]:
            left.remove(edge)
            with made.frozen(edge.pids("uplink")):
                yield min(_PILE_UP_S, made.lease_s / 2)
        yield _STEP_S


def cut_line(made: Installation) -> Play:
    """Cut the line of a host for longer than two leases, half of the time its relays' too."""
    edge, relays = made.edge(), made.rng.random() < 0.5
    with edge.place.cut(relays=relays):
        yield 2.2 * made.lease_s
    yield 1.0


def freeze_uplink(made: Installation) -> Play:
    """Let an uplink stand still for longer than a lease, and the supervisor that would replace it."""
    edge = made.edge()
    # So that the next parcels do not hold all that waits.
    made.environment.flood = _FLOOD
    with made.frozen([edge.service.child.pid, *edge.pids("uplink")]):
        yield made.lease_s + _TAKE_OVER_S
    made.environment.flood = 1.0


def hub_goes_back(made: Installation) -> Play:
    """Restore the hub from a copy that is some seconds old."""
    copy = made.directory / "hub-copy"
    made.kill_server()
    made.server.copy_to(copy)
    made.server.start()
    yield WENT_BACK_S
    made.kill_server()
    made.server.go_back_to(copy)
    made.server.start()
    yield 1.0
    shutil.rmtree(copy)


def lose_disk(made: Installation) -> Play:
    """Lose the disk of a host on which events wait, since its uplink stands still."""
    began = monotonic()
    while not (asking := [each for each in made.edges if each.connected()]) and monotonic() - began < _GIVE_UP_S:
        yield _STEP_S
    edge = made.rng.choice(asking or made.edges)
    made.environment.flood = _FLOOD
    pids = edge.pids("uplink")
    with made.frozen([edge.service.child.pid, *pids]):
        while made.waiting(edge) < LEAST_WAITING and monotonic() - began < _GIVE_UP_S:
            yield _STEP_S
    made.disks_lost.append(made.waiting(edge))
    made.lose_disk(edge)
    made.environment.flood = 1.0
    yield 1.0


def restore_home(made: Installation) -> Play:
    """Lose home's database, and let it begin with a copy that is some seconds old."""
    copy = made.directory / "home-copy"
    made.back_up_home(copy)
    yield _COPY_AGE_S
    made.restore_home(copy)
    yield 5.0
    copy.unlink()
    # Those who registered after the copy was made.
    began = monotonic()
    while not made.register_again() and monotonic() - began < _GIVE_UP_S:
        yield _STEP_S


FAULTS: dict[str, Callable[[Installation], Play]] = {
    "cut-line": cut_line,
    "freeze-uplink": freeze_uplink,
    "hub-goes-back": hub_goes_back,
    "lose-disk": lose_disk,
    "restore-home": restore_home,
}
