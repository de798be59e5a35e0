"""Ports at which no relay is looked for that strangers name, since other services listen there.

Those who name addresses decide what we connect to, and how often. Relays are found at 80, 443 and at any high port, so
that a list of the few that are allowed would lose many of them. As web browsers do, all are allowed but those of
services that an unexpected connection may harm or that would take what we say for something of theirs.
"""

from typing import Final

_PRIVILEGED: Final = range(1, 1024)
_WEB: Final = frozenset({80, 81, 88, 443, 444, 591, 800, 808, 843, 880, 888})
# Mail, remote access, name and file services, databases, queues, caches and control planes beyond 1023.
_OTHERS: Final = frozenset(
    {
        1080, 1099, 1433, 1434, 1521, 1719, 1720, 1723, 1883, 1900, 2049, 2181, 2375, 2376, 2377, 2379, 2380,
        2525, 3128, 3260, 3268, 3269, 3306, 3389, 3659, 4045, 4190, 4369, 5038, 5060, 5061, 5222, 5269, 5353, 5355,
        5432, 5433, 5671, 5672, 5900, 5901, 5984, 5985, 5986, 6000, 6001, 6379, 6380, 6443, 6566, 6665, 6666, 6667,
        6668, 6669, 6679, 6697, 7199, 8086, 8332, 8333, 8500, 8883, 9042, 9050, 9051, 9092, 9100, 9160,
        9200, 9300, 9418, 10050, 10051, 10080, 10250, 10255, 11211, 15672, 25672, 26379, 27017, 27018, 27019, 28015,
    }
)  # fmt: skip
SERVICE_PORTS: Final = (frozenset(_PRIVILEGED) - _WEB) | _OTHERS
