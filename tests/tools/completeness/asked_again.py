"""Pages that a relay refused for good, and was asked for again in the same form."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pipeline.relay.subscription import PAGE_PREFIX
from tests.fakes.relay_journal import Journal, Refused, Req

_LASTING: Final = ("blocked:", "restricted:")
"""How reasons begin that do not pass (NIP-01, NIP-42)."""
_OF_THE_MOMENT: Final = "subscriptions"
"""What a reason says where too many were open at once: the same is rightly asked for when they are fewer."""
_TIMES: Final = ("since", "until", "limit")
# What was on the way when the refusal was, and a service that is busy with a hundred relays, is no repetition.
_MARGIN_S: Final = 5.0


def forms_asked_again(journal: Journal) -> int:
    """Return how many forms were asked for again; a form is everything but its times and its limit.

    A request for one event is a probe, by which it is seen whether the relay relents.
    """
    requests = {(each.connection, each.subscription): each for each in journal.of(Req)}
    refused: dict[str, float] = {}
    for each in journal.of(Refused):
        request = requests.get((each.connection, each.subscription))
        if request is not None and _is_page(request) and _is_lasting(each.reason):
            refused.setdefault(_form(request), each.at)
    pages = [each for each in requests.values() if _is_page(each)]
    return len({_form(page) for page in pages if page.at > refused.get(_form(page), page.at) + _MARGIN_S})


def asked_again_fault(journal: Journal) -> str:
    """Return what is wrong in that, "" if nothing is."""
    count = forms_asked_again(journal)
    return f"{count} refused forms were asked for again" if count else ""


def _is_lasting(reason: str) -> bool:
    return reason.startswith(_LASTING) and _OF_THE_MOMENT not in reason


def _is_page(request: Req) -> bool:
    return request.subscription.startswith(PAGE_PREFIX) and any(each.get("limit") != 1 for each in request.filters)


def _form(request: Req) -> str:
    return json.dumps([_timeless(each) for each in request.filters], sort_keys=True)


def _timeless(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in _TIMES}
