"""Names for relays on loopback: a label `ip-127-1-2-3` in a host name resolves to that address, whatever its domain.

Imported by every interpreter that has this folder on its path. Only loopback addresses are given out.
"""

import re
import socket
from typing import Any

_NAME = re.compile(r"(?:^|\.)ip-127-(\d{1,3})-(\d{1,3})-(\d{1,3})(?:\.|$)")
_resolve = socket.getaddrinfo


def _getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
    found = _NAME.search(host) if isinstance(host, str) else None
    address = host if found is None else ".".join(("127", *found.groups()))
    return _resolve(address, port, *arguments, **options)


socket.getaddrinfo = _getaddrinfo
