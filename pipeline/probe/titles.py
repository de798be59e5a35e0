"""The lines as people read them, in their order."""

from typing import Final

SECTIONS: Final = {
    "connection": "Connection",
    "page": "Pages of stored events",
    "border": "since and until at the second of an event",
    "limit": "Limits: the most that is taken",
    "form": "Forms of filters",
    "withheld": "Messages for others",
    "subscription": "A REQ under an id that is open",
    "live": "Live events",
    "write": "Publishing",
    "nip42": "AUTH (NIP-42)",
    "nip45": "COUNT (NIP-45)",
    "nip67": "EOSE hints (NIP-67)",
    "nip77": "Sets (NIP-77)",
    "odd": "What means little, or nothing",
    "nip11": "NIP-11 against what was seen",
    "learned": "What the crawler has learned and the probe saw otherwise",
}
_TITLES: Final = {
    "connection.nip11": "information document",
    "connection.compression": "permessage-deflate",
    "connection.auth": "authenticated for all that follows",
    "connection.rate_limited": "requests refused for their rate",
    "page.everything": "filter without conditions",
    "page.order": "order",
    "page.limit_keeps": "limit keeps",
    "page.no_limit": "without limit",
    "page.limit_zero": "limit: 0",
    "border.since_author": "since, with author and kind",
    "border.until_author": "until, with author and kind",
    "border.since_everything": "since, no other condition",
    "border.until_everything": "until, no other condition",
    "limit.page": "limit of a filter",
    "limit.kinds": "kinds of a filter",
    "limit.authors": "authors of a filter",
    "limit.ids": "ids of a filter",
    "limit.tag_values": "values of a tag",
    "limit.tag_filters": "tags of a filter",
    "limit.filters": "filters of a REQ",
    "limit.id_length": "length of a subscription id",
    "limit.frame_bytes": "bytes of a frame",
    "limit.subscriptions": "open subscriptions",
    "form.ids": "ids",
    "form.authors": "authors",
    "form.authors_kinds": "authors, kinds",
    "form.kinds_times": "kinds, since, until",
    "form.times": "since, until",
    "form.second_author": "second of two authors",
    "form.second_tag_value": "second of two tag values",
    "form.two_filters": "two filters",
    "form.limit_of_filters": "limits of two filters",
    "withheld.kind_4": "kind 4",
    "withheld.list_with_4": "kinds 1 and 4",
    "withheld.kind_1059": "kind 1059",
    "withheld.list_with_1059": "kinds 1 and 1059",
    "subscription.open_id_other_filter": "with another filter",
    "subscription.open_id_same_filter": "with the same filter",
    "subscription.open_id_serves": "serves",
    "live.note": "note",
    "live.limit_zero": "note, to limit: 0",
    "live.second_filter": "note, by the second filter",
    "live.dated_back": "note dated two days back",
    "live.ephemeral": "ephemeral event",
    "live.arrives": "something arrives",
    "live.is_stored": "what arrives is stored",
    "write.note": "note",
    "write.stored": "comes at once",
    "write.duplicate": "same note again",
    "write.wrong_signature": "wrong signature",
    "write.deletion": "deletion (NIP-09)",
    "nip42.challenge": "challenge",
    "nip42.auth": "AUTH by an unknown key",
    "nip45.count": "count of an author's events",
    "nip67.hint": "EOSE says whether there is more",
    "nip77.compares": "sets are compared",
    "odd.empty_tag_list": "#p: []",
    "odd.empty_kinds": "kinds: []",
    "odd.unknown_member": "unknown member",
    "odd.search": "search",
    "odd.short_id": "#e: of two digits",
    "odd.unknown_command": "unknown command",
    "odd.no_json": "no JSON",
    "odd.empty_subscription": "empty subscription id",
}


def title_of(name: str) -> str:
    """Return what people read for a line; of tags and claims it is made from the name."""
    if (title := _TITLES.get(name)) is not None:
        return title
    section, _, rest = name.partition(".")
    if section == "form":
        letter, _, others = rest.partition("_tag")
        return ", ".join([f"#{letter}", *filter(None, others.replace("times", "since, until").split("_"))])
    if rest.startswith("supports_"):
        return f"NIP-{rest.removeprefix('supports_')}"
    return rest
