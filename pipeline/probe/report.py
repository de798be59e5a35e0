"""What a probe saw, as a table for people and as JSON. Pure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline.printable import count_of, printable
from pipeline.probe.observation import Observation
from pipeline.probe.titles import SECTIONS, title_of
from pipeline.relay.nip11 import RelayInformation

_MAX_WORDS: Final = 160
# Of what a relay says, in JSON; a NOTICE may have megabytes.
_MAX_TEXT: Final = 1_000


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """One relay. `requests`, `dials`, `bytes_received` and `took_s`: what it cost."""

    address: str
    information: RelayInformation | None
    observations: tuple[Observation, ...]
    requests: int
    dials: int
    bytes_received: int
    took_s: float

    def lines(self) -> list[str]:
        """Return the table, a line each; words of the relay are shortened and printable."""
        told = [_heading(self), self._cost()]
        for section, title in SECTIONS.items():
            rows = [_row(each) for each in self.observations if each.section == section]
            if rows:
                told += ["", title, *rows]
        return told

    def to_value(self) -> dict[str, Any]:
        """Return it for scripts, `null` for what is unknown."""
        information = self.information
        return {
            "address": self.address,
            "software": None if information is None else information.software,
            "version": None if information is None else information.version,
            "requests": self.requests,
            "connections": self.dials,
            "bytes": self.bytes_received,
            "seconds": round(self.took_s, 1),
            "lines": {each.name: _value(each) for each in self.observations},
        }

    def _cost(self) -> str:
        return (
            f"{count_of(self.requests, 'request')} over {count_of(self.dials, 'connection')}, "
            f"{self.bytes_received:,} bytes, {self.took_s:.0f} s"
        )


def _heading(report: ProbeReport) -> str:
    if report.information is None:
        return report.address
    named = " ".join(filter(None, (report.information.software, report.information.version)))
    return printable(f"{report.address}{f' ({named})' if named else ''}")


def _row(seen: Observation) -> str:
    parts: Iterable[str] = (
        f"more: {seen.how}" if seen.how and seen.section == "limit" else seen.how,
        f'"{_cut(seen.says)}"' if seen.says else "",
        _cut(seen.note),
    )
    return printable(f"  {title_of(seen.name):<32} {_shown(seen):<26} {'; '.join(filter(None, parts))}".rstrip())


def _shown(seen: Observation) -> str:
    if seen.value is None:
        return "unknown"
    if seen.value is True or seen.value is False:
        return "yes" if seen.value else "no"
    text = f"{seen.value:,}" if isinstance(seen.value, int) else seen.value
    return f"at least {text}" if seen.is_least else text


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"


def _value(seen: Observation) -> dict[str, Any]:
    value = asdict(seen)
    del value["name"]
    return value | {"says": seen.says[:_MAX_TEXT], "note": seen.note[:_MAX_TEXT]}
