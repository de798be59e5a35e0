"""What controls showed of a relay's filters, for people to read."""

from collections.abc import Iterable
from typing import Final

from pipeline.store.relay_forms import FormCheck

_MEANINGS: Final = {
    "whole": "answers whole",
    "holes": "leaves events out",
    "first-value": "searches only the first value of a list",
    "unknown": "could not be checked",
    "withheld": "is not shown to us",
    "auth": "is shown after AUTH (NIP-42)",
}
_SEARCHED: Final = "search/"


def form_lines(checks: Iterable[FormCheck]) -> str:
    """Return one line for each result with the forms that had it, the worst first."""
    by_verdict: dict[str, list[str]] = {}
    for check in checks:
        if not check.form.startswith(_SEARCHED):
            by_verdict.setdefault(check.verdict, []).append(check.form)
    order = sorted(by_verdict, key=lambda verdict: (verdict == "whole", verdict))
    lines = [f"  {', '.join(by_verdict[verdict])}: {_MEANINGS.get(verdict, verdict)}" for verdict in order]
    return "\n".join(["", *lines])
