"""What strangers can do, each as a function that does it for some seconds. `ATTACKS` names them all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.tools.siege.siege import Siege

Play = Callable[["Siege"], None]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `settings`: those of the service that differ from its defaults, so that less suffices to fill it.

    `disk_mib`: by how much the database may grow, the honest traffic included.
    """

    name: str
    what: str
    play: Play
    settings: Mapping[str, str] = field(default_factory=dict)
    disk_mib: int = 64


ATTACKS: dict[str, Attack] = {}


def attack(name: str, what: str, *, disk_mib: int = 64, **settings: str) -> Callable[[Play], Play]:
    """Enter a function into `ATTACKS`."""

    def enter(play: Play) -> Play:
        assert name not in ATTACKS, name
        ATTACKS[name] = Attack(name, what, play, settings, disk_mib)
        return play

    return enter


@attack("none", "nobody attacks; the other figures are held against these")
def _none(siege: "Siege") -> None:
    siege.wait()
