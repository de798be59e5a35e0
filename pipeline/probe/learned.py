"""What the crawler has learned of a relay, as far as the probe saw otherwise. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.probe.observation import Observation
from pipeline.relay.dimensions import Dimension
from pipeline.relay.limits import RelayLimits

_DIMENSIONS: Final = {
    Dimension.SUBSCRIPTIONS: "limit.subscriptions",
    Dimension.FILTERS: "limit.filters",
    Dimension.KINDS: "limit.kinds",
    Dimension.AUTHORS: "limit.authors",
    Dimension.IDS: "limit.ids",
    Dimension.TAG_VALUES: "limit.tag_values",
    Dimension.TAG_FILTERS: "limit.tag_filters",
    Dimension.FRAME_BYTES: "limit.frame_bytes",
    Dimension.ID_LENGTH: "limit.id_length",
}
# What is learned of a trait, with the line that shows it and the values that mean it.
_TRAITS: Final = (
    ("until_exclusive", "border.until_author", ("exclusive",)),
    ("since_exclusive", "border.since_author", ("exclusive",)),
    ("zero_is_all", "page.limit_zero", ("stored events",)),
    ("refuses_zero", "page.limit_zero", ("refused",)),
    ("refuses_kindless", "page.everything", ("refused",)),
    ("adds_requests", "subscription.open_id_serves", ("both",)),
    ("demands_auth", "connection.auth", (True,)),
    ("reconciles", "nip77.compares", ("right",)),
)
# Checks of forms with the line that shows the same.
_FORMS: Final = {
    "mentions/low": "form.p_tag_times",
    "mentions/mixed": "form.p_tag_times",
    "mentions+kinds/low": "form.p_tag_kinds_times",
    "authors/low": "form.authors",
    "authors+kinds/low": "form.authors_kinds",
    "global+kinds/low": "form.kinds_times",
    "firehose/low": "form.times",
    "shown/4": "withheld.kind_4",
    "shown/1059": "withheld.kind_1059",
}
_SAME: Final = {
    "whole": ("whole", "whole, and others", "shown"),
    "holes": ("holes", "refused"),
    "first-value": ("holes", "whole"),
    "withheld": ("withheld silently", "refused"),
    "auth": ("withheld silently", "refused"),
}


@dataclass(frozen=True, slots=True)
class Learned:
    """What the database holds of a relay. `dialled`: its address in the spelling that crawlers dial; `forms`: verdicts
    by form.
    """

    dialled: str
    limits: RelayLimits = field(default_factory=RelayLimits)
    forms: Mapping[str, str] = field(default_factory=dict)


def differences(learned: Learned, spelling: str, seen: Mapping[str, Observation]) -> list[Observation]:
    """Return one line for each thing that the crawler goes by and the probe saw otherwise."""
    found = [*_limits(learned.limits, seen), *_traits(learned.limits, seen), *_forms(learned.forms, seen)]
    if learned.dialled != spelling:
        found.append(
            Observation("learned.address", learned.dialled, note="is dialled; this probe used another spelling")
        )
    return found


def _limits(limits: RelayLimits, seen: Mapping[str, Observation]) -> Iterable[Observation]:
    for dimension, name in _DIMENSIONS.items():
        found, bound = seen.get(name), limits.bound(dimension)
        if found is None or type(found.value) is not int:
            continue
        learned, line = limits.of(dimension), f"learned.{dimension.value}"
        source = "by default" if bound is None else f"by {bound.source}"
        note = f"it goes by {learned:,} ({source}); seen: {found.value:,}{' or more' if found.is_least else ''}"
        if found.value < learned and not found.is_least:
            yield Observation(line, "too much is asked", note=note)
        elif bound is not None and learned < found.value and dimension is not Dimension.SUBSCRIPTIONS:
            yield Observation(line, "more may be asked", note=note)


def _traits(limits: RelayLimits, seen: Mapping[str, Observation]) -> Iterable[Observation]:
    for trait, name, values in _TRAITS:
        found = seen.get(name)
        if found is None or found.value is None:
            continue
        learned, is_so = bool(getattr(limits, trait)), found.value in values
        if learned != is_so:
            note = f"it goes by {'yes' if learned else 'no'}; seen: {found.value}"
            yield Observation(f"learned.{trait}", "otherwise", note=note)


def _forms(forms: Mapping[str, str], seen: Mapping[str, Observation]) -> Iterable[Observation]:
    for form, verdict in forms.items():
        found = seen.get(_FORMS.get(form, ""))
        if found is None or found.value is None or verdict not in _SAME:
            continue
        if found.value not in _SAME[verdict]:
            yield Observation(f"learned.form {form}", "otherwise", note=f"it goes by {verdict}; seen: {found.value}")
