"""Makes the files of `tests/data`: `python -m tests.corpus.make`. The same code always makes the same bytes.

What an address is taken for is written down as it is, so that a change of it is seen in the diff.
"""

import base64
import json
from collections.abc import Iterator

from pipeline.nostr.address import InvalidAddress, parse_address, split_addresses
from tests.corpus import DATA, addresses, cases, events, messages


def files() -> dict[str, str]:
    """The text of each file by its name."""
    lines = {
        "events.jsonl": (event.raw for event in sorted(events.make(), key=lambda each: (each.created_at, each.id))),
        "cases.jsonl": (_dump(_case(case)) for case in cases.make()),
        "relay-messages.jsonl": (_dump({"raw": raw, "is": kind}) for raw, kind in messages.make()),
        "addresses.jsonl": (_dump(_judged(text)) for text in addresses.make()),
    }
    return {name: "".join(f"{line}\n" for line in each) for name, each in lines.items()}


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _case(case: cases.Case) -> dict[str, str | None]:
    return {"name": case.name, "reason": case.reason, "raw_b64": base64.b64encode(case.raw).decode()}


def _judged(text: str) -> dict[str, object]:
    return {"text": text, "is": list(outcomes(text))}


def outcomes(text: str) -> Iterator[str]:
    """What each address in `text` is taken for: its canonical form, or `!` and why it is none."""
    for part in split_addresses(text) or [text]:
        try:
            yield parse_address(part).url
        except InvalidAddress as error:
            yield f"!{error.reason}"


def main() -> None:
    """Write the files."""
    DATA.mkdir(exist_ok=True)
    for name, text in files().items():
        (DATA / name).write_text(text)


if __name__ == "__main__":
    main()
