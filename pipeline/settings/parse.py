"""Parsers for the values that only this service has: text in, one typed value out, `InvalidValue` otherwise."""

import re
from collections.abc import Callable
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pipeline.nostr.address import InvalidAddress, RelayAddress, parse_address
from pipeline.nostr.nip19 import InvalidEncoding, parse_public_key
from pipeline.settings import values
from pipeline.settings.choices import SINK_GROUP, KeyList, SinkKind, SinkSetting
from pipeline.settings.values import HostPort, InvalidValue

_PLAIN_SINKS: Final = (SinkKind.PUBSUB, SinkKind.STDOUT, SinkKind.NONE)
# Beside another sink, a sink's name is also that of its outbox and part of that of its process.
_SINK_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
_OTHER_QUEUES: Final = frozenset({"inbox", "relay"})
_COMMA: Final = "%2C"


def choice(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    """Return a parser of the members of `kind`, in any case."""

    def parse(text: str) -> StrEnum:
        for member in kind:
            if member.value.lower() == text.strip().lower():
                return member
        raise InvalidValue("must be one of " + ", ".join(kind))

    return parse


def count(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""
    return lambda text: values.integer(text, least=least, most=most)


def sink(text: str) -> SinkSetting:
    """Read `pubsub`, `jsonl:PATH`, `stdout`, `none` or `NAME:ARGUMENT` of an installed plugin."""
    kind, _, rest = text.strip().partition(":")
    if kind == SinkKind.JSONL:
        if not rest:
            raise InvalidValue("jsonl needs a path, as in jsonl:/var/lib/event-service/events.jsonl")
        return SinkSetting(SinkKind.JSONL, Path(rest))
    if kind in _PLAIN_SINKS and not rest:
        return SinkSetting(SinkKind(kind))
    plugins = sorted(set(entry_points(group=SINK_GROUP).names) - set(SinkKind) - _OTHER_QUEUES)
    if kind in plugins:
        return SinkSetting(SinkKind.PLUGIN, name=kind, argument=rest)
    installed = f"one of the installed sinks ({', '.join(plugins)})" if plugins else "the name of an installed sink"
    raise InvalidValue(f"must be pubsub, jsonl:PATH, stdout, none, or {installed}")


def sinks(text: str) -> tuple[SinkSetting, ...]:
    """Read one sink or several with commas between, the first of which counts for backpressure; `none` is none."""
    found: list[SinkSetting] = []
    for each in text.split(","):
        try:
            found.append(sink(each.replace(_COMMA, ",")))
        except InvalidValue as error:
            if "," not in text:
                raise
            name = each.strip().partition(":")[0]
            raise InvalidValue(f"{name!r}: {error}; a comma within a path or argument is written {_COMMA}") from None
    names = [each.sink for each in found]
    if len(found) == 1:
        return () if found[0].kind is SinkKind.NONE else tuple(found)
    for name in names:
        if not _SINK_NAME.fullmatch(name) or name == SinkKind.NONE:
            raise InvalidValue(f"{name} cannot be named beside another sink")
        if names.count(name) > 1:
            raise InvalidValue(f"{name} is named twice")
    return tuple(found)


def format_sinks(found: tuple[SinkSetting, ...]) -> str:
    """Return the text that sinks are read from."""
    return ",".join(str(each).replace(",", _COMMA) for each in found) or SinkKind.NONE.value


def relay(text: str) -> RelayAddress | None:
    """Read the address of a relay; `None` for an empty text."""
    if not text:
        return None
    try:
        return parse_address(text)
    except InvalidAddress as error:
        raise InvalidValue(f"{values.without_user(text)!r} is no relay address: {error}") from None


def relays(text: str) -> tuple[RelayAddress, ...]:
    """Read a comma-separated list of relay addresses."""
    return tuple(each for each in map(relay, values.text_list(text)) if each is not None)


def url(text: str) -> str:
    """Read a full http or https address."""
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidValue("must be a full http or https address")
    return text.strip()


def hub_url(text: str) -> str:
    """Read the address of a PostgreSQL database, as libpq reads it."""
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("postgresql", "postgres") and len(parts.path) > 1 and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidValue("must be the address of a PostgreSQL database, as in postgresql://USER:PASSWORD@HOST/NAME")
    return text.strip()


def file_path(text: str) -> Path:
    """Read the path of a file, which need not exist."""
    path = Path(text)
    if not path.name or text.endswith("/"):
        raise InvalidValue("must be the path of a file")
    if path.is_dir():
        raise InvalidValue(f"must be the path of a file, and {path} is a directory")
    return path


def readable_file(text: str) -> Path:
    """Read the path of a file that can be read."""
    path = Path(text)
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise InvalidValue(f"cannot read {text}: {error.strerror}") from None
    return path


def key_list(text: str) -> KeyList:
    """Read the path of a file with a public key a line, and the keys in it."""
    path = readable_file(text)
    keys: set[bytes] = set()
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        key = line.partition("#")[0].strip()
        try:
            keys.update([parse_public_key(key)] if key else [])
        except InvalidEncoding as error:
            raise InvalidValue(f"line {number} of {text}: {error}") from None
    return KeyList(path, frozenset(keys))


def proxy(text: str) -> HostPort:
    """Read `host:port`, both present."""
    proxy = values.host_port(text)
    if not proxy.host or not proxy.port:
        raise InvalidValue("must be host:port")
    return proxy


def format_boolean(value: bool) -> str:
    """Return the text that `values.boolean` reads."""
    return "true" if value else "false"


def host_names(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of host names, without case and trailing dots."""
    return tuple(name.lower().rstrip(".") for name in values.text_list(text))
