"""Files of `NAME=value` lines, as systemd's `EnvironmentFile=` takes them."""

import re
from pathlib import Path

from pipeline.errors import CannotStart

# Larger than any set of settings; a wrong path must not fill the memory.
MAX_BYTES = 1 << 20
_LINE_END = re.compile(r"[\n\r]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANKS = " \t"
_QUOTES = "\"'"
_ENDS_LINE = ("", "\n", "\r")
# What a backslash is taken away from between double quotes; before anything else it stays.
_ESCAPED_IN_QUOTES = '"\\`$'


class InvalidEnvFile(CannotStart):
    """The file cannot be read, or one of its lines is no assignment; the text names file and line."""


def read_env_file(path: Path) -> dict[str, str]:
    """Return the assignments in `path`, later ones winning. Raises `InvalidEnvFile`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidEnvFile(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise InvalidEnvFile(f"{path} has more than {MAX_BYTES} bytes")
    try:
        return parse_env(raw.decode())
    except UnicodeDecodeError:
        raise InvalidEnvFile(f"{path} is not UTF-8 text") from None
    except InvalidEnvFile as error:
        raise InvalidEnvFile(f"{path}, {error}") from None


def parse_env(text: str) -> dict[str, str]:
    """Return the assignments in `text`. Raises `InvalidEnvFile` that names the first line which is none.

    As in systemd: blank lines and those that begin with `#` or `;` are passed over; a value may be quoted, in part or
    whole and over several lines; a backslash before a line's end joins the next to it; nothing is expanded.
    """
    found: dict[str, str] = {}
    scanner = _Scanner(text)
    while scanner.skip_to_assignment():
        name = scanner.name()
        found[name] = scanner.value()
    return found


def format_env(values: dict[str, str]) -> str:
    """Lines that `parse_env` reads back as `values`."""
    escaped = {name: re.sub(r'(["\\`$])', r"\\\1", value) for name, value in values.items()}
    return "".join(f'{name}="{value}"\n' for name, value in escaped.items())


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def skip_to_assignment(self) -> bool:
        """Go to the first character of the next assignment; return True if there is one."""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "#;":
                self._end_line()
            elif character in _BLANKS + "\n\r":
                self._at += 1
            else:
                return True
        return False

    def name(self) -> str:
        """Return the name before the next equals sign, which is passed."""
        end = _LINE_END.search(self._text, self._at)
        line = self._text[self._at : len(self._text) if end is None else end.start()]
        name, equals, _ = line.partition("=")
        if not equals or _NAME.fullmatch(name.rstrip(_BLANKS)) is None:
            # The text of the line may be a secret.
            raise self._fault("is no NAME=value")
        self._at += len(name) + 1
        return name.rstrip(_BLANKS)

    def value(self) -> str:
        """Return the value up to the end of its line, without the blanks around it."""
        done, plain, is_plain = "", "", False
        while (character := self._next()) not in _ENDS_LINE:
            if is_plain or character not in _BLANKS + _QUOTES:
                is_plain = True
                plain += self._after_backslash() if character == "\\" else character
            elif character in _QUOTES:
                done += self._quoted(character)
        return done + plain.rstrip(_BLANKS)

    def _after_backslash(self) -> str:
        following = self._next()
        return "" if following in _ENDS_LINE else following

    def _quoted(self, quote: str) -> str:
        fault = self._fault("has a quote that is not closed")
        parts: list[str] = []
        while (character := self._next()) != quote:
            if not character:
                raise fault
            if character == "\\" and quote == '"':
                following = self._next()
                if following in _ENDS_LINE:
                    continue
                parts.append(following if following in _ESCAPED_IN_QUOTES else "\\" + following)
            else:
                parts.append(character)
        return "".join(parts)

    def _next(self) -> str:
        """Return the next character, which is passed; empty at the end."""
        character = self._text[self._at : self._at + 1]
        self._at += len(character)
        return character

    def _end_line(self) -> None:
        """Pass a comment, which a backslash at its end carries on."""
        while (character := self._next()) not in _ENDS_LINE:
            if character == "\\":
                self._next()

    def _fault(self, why: str) -> InvalidEnvFile:
        return InvalidEnvFile(f"line {self._text.count(chr(10), 0, self._at) + 1} {why}")
