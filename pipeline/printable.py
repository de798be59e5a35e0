"""Text for an operator's screen: of strangers, and counts."""

_SINGULAR = {"are": "is", "were": "was", "have": "has"}


def printable(text: str) -> str:
    """Return `text` with all that a terminal obeys or a reader cannot see written as in JSON, such as `\\u009b`.

    Control characters, C1 codes, overrides of the writing direction, line separators, lone surrogates and the like.
    What is JSON stays JSON.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def count_of(number: int, noun: str, verb: str = "") -> str:
    """Return number, noun and verb, each in the form that fits, such as `1 relay refuses` and `2 relays refuse`.

    `noun` is the singular, `verb` the plural: `are`, `were`, or one that takes an s.
    """
    if number != 1:
        return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}{verb and ' '}{verb}"
    return f"1 {noun}{verb and ' '}{_SINGULAR.get(verb, verb and f'{verb}s')}"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
