"""One probe of one relay, from its address to the report."""

from collections.abc import Callable
from dataclasses import replace
from secrets import token_bytes

from pipeline.nostr.address import RelayAddress
from pipeline.nostr.event import public_key
from pipeline.probe.claims import compare
from pipeline.probe.interview import Interview, Pace
from pipeline.probe.known import Known, ProbeQuestion
from pipeline.probe.observation import Observation, unknown
from pipeline.probe.plan import questions
from pipeline.probe.report import ProbeReport
from pipeline.process.clock import Clock
from pipeline.relay.dial import Compression, DialPolicy, dial
from pipeline.relay.nip11 import InformationFault, InvalidInformation, RelayInformation, fetch_information
from pipeline.relay.websocket import WebSocket

Progress = Callable[[ProbeQuestion], None]


def probe(
    address: RelayAddress, policy: DialPolicy, clock: Clock, *, writes: bool, pace: Pace, on_question: Progress
) -> ProbeReport:
    """Ask the relay at `address` all questions; raises `DialError` if it cannot be connected to."""
    compression = Compression()
    policy = replace(policy, compression=compression)
    connected: list[WebSocket] = []

    def connect() -> WebSocket:
        websocket = dial(address, policy, clock)
        connected[:] = connected or [websocket]
        return websocket

    interview = Interview(connect, address.spelling, clock, pace)
    information, document = _information(address, policy, clock)
    known = Known(clock.now_ms() // 1000, _new_secret(), writes, information)
    plan = questions(address.spelling, writes=writes)
    seen = interview.run(plan, known, on_question)
    agreed = connected[0].inflates
    seen[:0] = [document, _of_compression(agreed=agreed, offered=compression.is_offered_to(address))]
    if interview.authenticates:
        seen.append(Observation("connection.auth", True, note="nothing is answered without"))
    if interview.rate_limited:
        seen.append(Observation("connection.rate_limited", interview.rate_limited))
    if information is not None:
        seen += compare(information, {each.name: each for each in seen})
    return ProbeReport(
        address.spelling, information, tuple(seen), interview.requests, interview.dials, interview.bytes_received,
        interview.took_s,
    )  # fmt: skip


def _information(
    address: RelayAddress, policy: DialPolicy, clock: Clock
) -> tuple[RelayInformation | None, Observation]:
    name = "connection.nip11"
    try:
        return fetch_information(address, policy, clock), Observation(name, "answered")
    except InvalidInformation as error:
        if error.reason is InformationFault.DIAL:
            return None, unknown(name, str(error))
        return None, Observation(name, "none", note=str(error))


def _of_compression(*, agreed: bool, offered: bool) -> Observation:
    name = "connection.compression"
    if agreed:
        return Observation(name, "agreed on")
    return Observation(name, "not taken up") if offered else Observation(name, "refused", note="or with other terms")


def _new_secret() -> bytes:
    """Return a key that is used once."""
    while True:
        secret = token_bytes(32)
        try:
            public_key(secret)
        except ValueError:
            continue
        return secret
