"""Text of strangers as an operator's screen may show it."""


def printable(text: str) -> str:
    """Return `text` with all that a terminal obeys or a reader cannot see written as in JSON, such as `\\u009b`.

    Control characters, C1 codes, overrides of the writing direction, line separators, lone surrogates and the like.
    What is JSON stays JSON.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
