"""Addresses of relays on loopback: literal, or by a name that only the service under attack can resolve."""

from pathlib import Path

HOOKS = Path(__file__).with_name("hooks")


def named(address: str, port: int, domain: str, label: str = "") -> str:
    """Return the url of a listener under `domain`; `label` comes before it, so that one listener has many names."""
    host = f"ip-{address.replace('.', '-')}.{domain}"
    return f"ws://{label}.{host}:{port}" if label else f"ws://{host}:{port}"


def literal(address: str, port: int, path: str = "") -> str:
    """Return the url of a listener by its address."""
    return f"ws://{address}:{port}{path}"


def loopback(first: int, number: int) -> str:
    """Return address number `number` (below 62,500) of 127.`first`.0.0/16."""
    return f"127.{first}.{number // 250 + 1}.{number % 250 + 1}"
