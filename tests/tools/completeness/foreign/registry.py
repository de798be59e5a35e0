"""Relays that the registries have, installed by `bin/peers`: how each is started, as it comes and with its bounds."""

from dataclasses import dataclass
from pathlib import Path

from tests.fakes.child import ROOT
from tests.tools.completeness.foreign.subject import RelayCommand

PEERS = ROOT / ".peers"
NODE_ENVIRONMENT = {"NODE_PATH": str(PEERS / "node" / "node_modules")}
OUR_ENVIRONMENT = {"PYTHONPATH": str(ROOT)}
_CORE = "node {root}/tests/peers/core_relay.js {address} {port} {folder}"
_RELAYS = "node {root}/tests/peers/relays.js {address} {port}"
_PYTHON = "{root}/.peers/python/bin/python {root}/tests/peers/nostr_relay.py {address} {port} {folder}"
_LOCAL = (
    "{python} -m tests.fakes.independent_relay --addr {address} --port {port} --lmdb {folder}/lmdb --max-reqs 100000"
)
_KHATRU = "{root}/.peers/bin/khatru --address {address}:{port} --folder {folder}"
_RUST = "{python} {root}/tests/peers/rust_relay.py {root}/.peers/cargo/bin/PROGRAM {address} {port} {folder}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A relay of the registries. `needs`: a file that is there once it is installed, or `None`.

    `cap` puts a bound on the events of a page into its command, where it has one; `strict` its other bounds.
    """

    name: str
    command: str
    needs: Path | None
    env: dict[str, str]
    cap: str = ""
    strict: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether it can be started."""
        return self.needs is None or self.needs.exists()

    def variant(self, *, cap: int | None = None, strict: bool = False) -> RelayCommand:
        """How it is started with these bounds; raises `ValueError` where it has none such."""
        name, command = self.name, self.command
        if cap is not None:
            if not self.cap:
                raise ValueError(f"{self.name} has no cap to set")
            bound = self.cap.replace("{cap}", str(cap)).replace("{tenth}", str(cap // 10))
            name, command = f"{name}, cap {cap}", f"{command} {bound}"
        if strict:
            if not self.strict:
                raise ValueError(f"{self.name} has no strict settings")
            name, command = f"{name}, strict", f"{command} {self.strict}"
        return RelayCommand(name, command, self.env)


QUICK = (
    Listed(
        "nostr-relay", _PYTHON, PEERS / "python/bin/nostr-relay", {}, "max_limit={cap}",
        "max_limit=100 subscription_limit=4",
    ),
    Listed("LocalRelay", _LOCAL, None, OUR_ENVIRONMENT, "--max-limit {cap}", "--max-limit 100"),
    Listed(
        "core-validator", _CORE, PEERS / "node/node_modules/@nostr-relay/core", NODE_ENVIRONMENT,
        "defaultLimit={tenth}",
        "defaultLimit=10 maxFilterKindsLength=5 maxFilterAuthorsLength=50 maxFilterIdsLength=50 "
        "maxFilterGenericTagsLength=16 maxSubscriptionIdLength=32",
    ),
    Listed("relays", _RELAYS, PEERS / "node/node_modules/relays", NODE_ENVIRONMENT | {"NOSTR_DISABLE_SIG": "true"}),
)  # fmt: skip
"""Those that install in a minute or two."""

RELAYS = (
    *QUICK,
    *(
        Listed(
            f"khatru-{store}", f"{_KHATRU} --store {store}", PEERS / "bin/khatru", {}, "--limit {cap}",
            "--strict --kinds 10",
        )
        for store in ("lmdb", "badger", "sqlite3", "slice")
    ),
    Listed(
        "rnostr", _RUST.replace("PROGRAM", "rnostr"), PEERS / "cargo/bin/rnostr", {}, "limitation.max_limit={cap}",
        "limitation.max_limit=100 limitation.max_filters=2 limitation.max_subscriptions=4",
    ),
    Listed(
        "nostr-rs-relay", _RUST.replace("PROGRAM", "nostr-rs-relay"), PEERS / "cargo/bin/nostr-rs-relay", {},
        strict="limits.limit_scrapers=true",
    ),
)  # fmt: skip
