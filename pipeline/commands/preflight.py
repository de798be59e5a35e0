"""`event-service check --online`: whether what the settings name can be reached and may be used. Changes nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.nostr.address import Network, RelayAddress
from pipeline.process.clock import SystemClock
from pipeline.relay.deadline import AttemptDeadline, Deadline
from pipeline.relay.dial import DialPolicy, dial, never
from pipeline.relay.errors import DialError
from pipeline.relay.resolve import endpoints, system_resolver
from pipeline.settings.choices import SinkKind
from pipeline.settings.config import Config

_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    subject: str
    is_ok: bool
    text: str


def preflight(config: Config) -> Iterator[Finding]:
    """Look at the topic, the target relay and the bootstrap relays, side by side; findings in that order."""
    looks: list[Callable[[], Finding]] = []
    if any(sink.kind is SinkKind.PUBSUB for sink in config.sink):
        looks.append(lambda: _topic(config))
    if (target := config.target_relay) is not None:
        looks.append(lambda: _target_relay(target, config))
    looks += [_resolving(relay, config) for relay in config.bootstrap_relays]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda look: look(), looks)


def _topic(config: Config) -> Finding:
    from pipeline.sinks.pubsub import PubsubSettings, examine_topic  # noqa: PLC0415  (60 MB, only where it is used)

    assert config.google_pubsub_project_id is not None, "checked by Config"
    settings = PubsubSettings(
        config.google_pubsub_project_id, config.pubsub_topic, config.google_pubsub_credentials_json_path
    )
    try:
        return Finding(settings.path, True, examine_topic(settings, _TIMEOUT_S))
    except EventServiceError as error:
        return Finding(settings.path, False, str(error))


def _target_relay(address: RelayAddress, config: Config) -> Finding:
    policy = DialPolicy(allow_private=config.allow_private_relays, timeout_s=_TIMEOUT_S)
    try:
        dial(address, policy, SystemClock()).close()
    except DialError as error:
        return Finding(f"target relay {address}", False, str(error))
    return Finding(f"target relay {address}", True, "answers")


def _resolving(address: RelayAddress, config: Config) -> Callable[[], Finding]:
    def look() -> Finding:
        subject = f"bootstrap relay {address}"
        if address.network is not Network.CLEARNET:
            proxied = config.socks_proxy is not None and address.network is Network.ONION
            return Finding(subject, proxied, "resolved by the proxy" if proxied else f"no way into {address.network}")
        attempt = AttemptDeadline(Deadline(SystemClock(), _TIMEOUT_S), never)
        try:
            found = endpoints(
                address.host, address.port, resolver=system_resolver,
                allow_private=config.allow_private_relays, attempt=attempt,
            )  # fmt: skip
        except DialError as error:
            return Finding(subject, False, str(error))
        return Finding(subject, True, f"resolves to {found[0].address[0]}")

    return look
