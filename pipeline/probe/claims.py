"""What the relay's information document (NIP-11) says, against what was seen. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from pipeline.probe.observation import Observation, unknown
from pipeline.relay.nip11 import RelayInformation

# Members of `limitation`, with the line that shows the same.
_LIMITS: Final = (
    ("max_message_length", "limit.frame_bytes"),
    ("max_subscriptions", "limit.subscriptions"),
    ("max_filters", "limit.filters"),
    ("max_limit", "limit.page"),
    ("default_limit", "page.no_limit"),
    ("max_subid_length", "limit.id_length"),
    ("max_authors", "limit.authors"),
    ("max_ids", "limit.ids"),
    ("max_kinds", "limit.kinds"),
    ("max_tag_values", "limit.tag_values"),
)
_SEARCH_NIP: Final = 50
# NIPs with the line that shows them, and the values that do.
_NIPS: Final = (
    (42, "nip42.challenge", ("at once, or with the first request", "with a refusal")),
    (45, "nip45.count", ("right", "another number")),
    (67, "nip67.hint", (True,)),
    (77, "nip77.compares", ("right", "answered", "leaves events out")),
)


def compare(information: RelayInformation, seen: Mapping[str, Observation]) -> list[Observation]:
    """Return one line for each claim that can be held against what was seen."""
    return [
        *_limits(information, seen),
        *_nips(information, seen),
        *_search(information, seen),
        *_auth(information, seen),
    ]


def _limits(information: RelayInformation, seen: Mapping[str, Observation]) -> Iterable[Observation]:
    for member, name in _LIMITS:
        claimed = getattr(information.limits, member)
        if claimed is None:
            continue
        line = f"nip11.{member}"
        found = seen.get(name)
        if found is None or type(found.value) is not int:
            yield unknown(line, f"says {claimed:,}")
        elif found.is_least:
            fits = claimed >= found.value
            note = f"says {claimed:,}, {found.value:,} are taken"
            yield unknown(line, note) if fits else Observation(line, "takes more", note=note)
        else:
            value = "true" if claimed == found.value else "takes less" if found.value < claimed else "takes more"
            yield Observation(line, value, note=f"says {claimed:,}, seen {found.value:,}")


def _nips(information: RelayInformation, seen: Mapping[str, Observation]) -> Iterable[Observation]:
    for nip, name, values in _NIPS:
        claims = nip in information.supported_nips or (nip == 77 and information.negentropy)
        found = seen.get(name)
        line = f"nip11.supports_{nip}"
        if found is None or found.value is None:
            yield unknown(line, "claimed" if claims else "not claimed")
        elif claims == (found.value in values):
            yield Observation(line, "true", note="claimed" if claims else "not claimed")
        else:
            yield Observation(line, "claimed, not seen" if claims else "seen, not claimed")


def _search(information: RelayInformation, seen: Mapping[str, Observation]) -> Iterable[Observation]:
    """A search that matches nothing shows little; one that is passed over shows that there is none."""
    found = seen.get("odd.search")
    if _SEARCH_NIP in information.supported_nips and found is not None and found.value in ("ignored", "refused"):
        yield Observation("nip11.supports_50", "claimed, not seen")


def _auth(information: RelayInformation, seen: Mapping[str, Observation]) -> Iterable[Observation]:
    if not information.limits.auth_required:
        return
    everything = seen.get("page.everything")
    if everything is None or everything.value is None:
        yield unknown("nip11.auth_required", "says that it demands AUTH")
    else:
        yield Observation("nip11.auth_required", "not seen" if everything.value == "answered" else "true")
