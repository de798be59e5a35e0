"""Parsers for the values of settings: text in, one typed value out, `InvalidValue` otherwise."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from pipeline.errors import EventServiceError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_DURATION = re.compile(r"0*(\d+)(ms|s|m|h|d)", re.ASCII)
_TOPIC_ID = re.compile(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
# Ids of old projects begin with a domain and a colon.
_PROJECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}")
# A password may hold anything, a slash too.
_USER = re.compile(r"^(\s*[A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)
# libpq takes them among its options too.
_PASSWORD_OPTION = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)
_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MS_PER_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SHARE = re.compile(r"\d{1,9}(\.\d{0,18})?|\.\d{1,18}", re.ASCII)
_MAX_DURATION_MS = 36_500 * _MS_PER_UNIT["d"]


class InvalidValue(EventServiceError):
    """A setting's text that cannot be read; the message completes the sentence "NAME: …"."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP endpoint; an empty `host` means every local address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def duration_ms(text: str) -> int:
    """Read `90s`, `16m`, `2h`, `30d` (or `250ms`, or a plain `0`) as milliseconds."""
    if text.strip() == "0":
        return 0
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidValue("must be a whole number followed by s, m, h or d, such as 16m")
    value = int(match[1][:17]) * _MS_PER_UNIT[match[2]]
    if value > _MAX_DURATION_MS:
        raise InvalidValue("must be at most 36500d")
    return value


def format_duration(milliseconds: int) -> str:
    """Return the shortest text that `duration_ms` reads back as `milliseconds`."""
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _MS_PER_UNIT[unit] == 0:
            return f"{milliseconds // _MS_PER_UNIT[unit]}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def boolean(text: str) -> bool:
    """Read `true` or `false`, in any case."""
    match text.strip().lower():
        case "true":
            return True
        case "false":
            return False
        case _:
            raise InvalidValue("must be true or false")


def share(text: str) -> float:
    """Read a number from 0 to 1, such as `0.001`."""
    if not _SHARE.fullmatch(text.strip()) or float(text) > 1:
        raise InvalidValue("must be a number from 0 to 1, such as 0.001")
    return float(text)


def format_share(value: float) -> str:
    """Return the text that `share` reads back as `value`."""
    return f"{Decimal(repr(value)).normalize():f}"


def topic_id(text: str) -> str:
    """Read the id of a Pub/Sub topic, as Google names its rules."""
    stripped = text.strip()
    if not _TOPIC_ID.fullmatch(stripped) or stripped.lower().startswith("goog"):
        raise InvalidValue(
            "must be a topic id: 3 to 255 letters, digits or -_.~+%, beginning with a letter, not with goog"
        )
    return stripped


def project_id(text: str) -> str:
    """Read the id of a Google project; emulators take what Google would not, but no blank and no slash."""
    stripped = text.strip()
    if not _PROJECT_ID.fullmatch(stripped):
        raise InvalidValue("must be a project id: letters, digits or -_.: only, beginning with a letter or digit")
    return stripped


def integer(text: str, *, least: int, most: int) -> int:
    """Read a whole number from `least` to `most`, both included."""
    stripped = text.strip()
    if not re.fullmatch(r"\d{1,18}", stripped, re.ASCII) or not least <= int(stripped) <= most:
        raise InvalidValue(f"must be a whole number from {least} to {most}")
    return int(stripped)


def text_list(text: str) -> tuple[str, ...]:
    """Read a comma-separated list; blanks around items and empty items are dropped."""
    return tuple(item for item in (part.strip() for part in text.split(",")) if item)


def networks(text: str) -> tuple[IPNetwork, ...]:
    """Read a comma-separated list of IP addresses and networks, such as `127.0.0.1,10.0.0.0/8`."""
    try:
        return tuple(ipaddress.ip_network(item) for item in text_list(text))
    except ValueError as error:
        raise InvalidValue(f"must be IP addresses or networks, such as 127.0.0.1,10.0.0.0/8: {error}") from None


def ports(text: str) -> frozenset[int]:
    """Read a comma-separated list of TCP ports, such as `22,6379`."""
    return frozenset(integer(item, least=1, most=65_535) for item in text_list(text))


def format_list(items: Iterable[object]) -> str:
    """Return the text that lists are read from."""
    return ",".join(map(str, items))


def host_port(text: str) -> HostPort:
    """Read an address in Go's form: `host:port`, `:port` or `[v6]:port`."""
    host, separator, port_text = text.strip().rpartition(":")
    if not separator or not re.fullmatch(r"\d{1,5}", port_text, re.ASCII) or int(port_text) > 65_535:
        raise InvalidValue("must be host:port, :port or [v6]:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidValue("must have a valid IPv6 address between its brackets") from None
    elif not re.fullmatch(r"[A-Za-z0-9._-]*", host):
        raise InvalidValue("must be host:port, :port or [v6]:port")
    return HostPort(host, int(port_text))


def host_name(text: str) -> str:
    """Read the name of a crawling host."""
    if not _HOST_NAME.fullmatch(text.strip()):
        raise InvalidValue("must be up to 32 lowercase letters, digits and hyphens, as in fra1")
    return text.strip()


def without_user(text: str) -> str:
    """Return an address as it may be shown: without the name and the passwords that it may hold."""
    return _PASSWORD_OPTION.sub(r"\1***", _USER.sub(r"\1***@", text))
