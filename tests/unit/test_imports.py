"""Who may import whom (pipeline/docs/developing.md), and what only one place may use."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each package may import of the project; itself always. `process` knows nobody, and everybody may know it.
LEAVES = {"pipeline.errors", "pipeline.printable", "pipeline.settings", "pipeline.version"}
SHARED = LEAVES | {"pipeline.process"}
ALLOWED = {
    "pipeline.errors": set[str](),
    "pipeline.version": set[str](),
    "pipeline.build": set[str](),
    "pipeline.printable": set[str](),
    # Addresses and keys are read by the protocol's own rules; that is all that settings know of it.
    "pipeline.settings": {"pipeline.errors", "pipeline.nostr.address", "pipeline.nostr.nip19"},
    "pipeline.settings.values": {"pipeline.errors"},
    "pipeline.settings.reload": SHARED,
    "pipeline.process": SHARED,
    "pipeline.process.otlp": SHARED | {"pipeline.__version__"},
    "pipeline.nostr": {"pipeline.errors"},
    "pipeline.relay": SHARED | {"pipeline.nostr"},
    "pipeline.store": SHARED | {"pipeline.nostr"},
    "pipeline.go_import": SHARED | {"pipeline.nostr", "pipeline.store"},
    "pipeline.rules": {"pipeline.nostr", "pipeline.store"},
    "pipeline.crawl": SHARED | {"pipeline.nostr", "pipeline.relay", "pipeline.store", "pipeline.rules"},
    "pipeline.sinks": SHARED | {"pipeline.nostr", "pipeline.relay", "pipeline.store"},
    "pipeline.delivery": SHARED | {"pipeline.store", "pipeline.sinks"},
    "pipeline.saver": SHARED | {"pipeline.nostr", "pipeline.store", "pipeline.rules"},
    "pipeline.sweeper": SHARED | {"pipeline.store"},
    "pipeline.demo": SHARED | {"pipeline.nostr"},
    "pipeline.probe": SHARED | {"pipeline.nostr", "pipeline.relay"},
    "pipeline.status": SHARED | {"pipeline.__version__", "pipeline.nostr", "pipeline.store"},
    # Which kinds there are is all that it knows of the crawl, as it is to prove it.
    "pipeline.audit": SHARED
    | {"pipeline.crawl.sync.asked_kinds", "pipeline.status"}
    | {f"pipeline.{name}" for name in ("nostr", "relay", "store", "rules")},
    # Relays are asked as by an audit.
    "pipeline.replay": SHARED
    | {"pipeline.audit"}
    | {f"pipeline.{name}" for name in ("nostr", "relay", "store", "rules")},
    "pipeline.server": SHARED | {"pipeline.nostr", "pipeline.store", "pipeline.status"},
    "pipeline.hub": SHARED | {"pipeline.nostr", "pipeline.store", "pipeline.rules"},
    "stages": SHARED
    | {"pipeline.__version__", "pipeline.audit", "pipeline.hub", "pipeline.rules.acceptance"}
    | {f"pipeline.{name}" for name in ("nostr", "relay", "store", "crawl", "saver", "sinks", "delivery", "sweeper")},
    "pipeline.commands": SHARED
    | {"pipeline.audit", "pipeline.demo", "pipeline.go_import", "pipeline.probe", "pipeline.replay", "pipeline.status"}
    | {"pipeline.hub", "pipeline.rules.relevance"}
    | {f"pipeline.{name}" for name in ("nostr", "relay", "store", "crawl", "sinks")},
    "pipeline.cli": SHARED | {"pipeline.__version__", "pipeline.commands", "pipeline.store", "stages"},
}
# Sockets, and libraries that open them.
NETWORK = {"socket", "ssl", "http.client", "http.server", "urllib.request", "socketserver", "websocket", "websockets"}
NETWORK |= {"grpc", "google", "requests", "opentelemetry"}
MAY_USE_THE_NETWORK = (
    "pipeline.relay", "pipeline.sinks", "pipeline.server", "stages.server", "pipeline.process.notify",
    "pipeline.process.exposition", "pipeline.process.otlp", "pipeline.demo", "pipeline.hub.connection",
)  # fmt: skip
# The import reads a file of another program, and writes beside what the store does.
SPEAKS_TO_THE_DATABASE = ("pipeline.store", "pipeline.go_import")
# The hub is a database of its own, and its statements lie in `pipeline/hub/sql`.
SPEAKS_TO_THE_HUB = ("pipeline.hub.connection", "pipeline.hub.installer")
# Programs for consumers and a package of its own, which others copy.
SAMPLES = ROOT / "pipeline/docs"
CLOCK = "pipeline.process.clock"
READS_A_CLOCK = {"now", "utcnow", "today"}
SQL = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE (TABLE|INDEX|TRIGGER)|DROP|ALTER|PRAGMA|WITH)\b\s*\S"
)


@dataclass(frozen=True)
class Module:
    """One file of the project and what it imports, wherever in it."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def imports(self) -> frozenset[str]:
        """Modules and names in modules, as dotted paths; relative imports do not occur."""
        return _imports(self)

    @property
    def package(self) -> str:
        """The longest entry of `ALLOWED` that the module belongs to."""
        return max((name for name in ALLOWED if within(self.name, name)), key=len, default="")


@cache
def _imports(module: Module) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


@cache
def modules() -> tuple[Module, ...]:
    paths = sorted((*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")))
    return tuple(_module(path) for path in paths if not path.is_relative_to(SAMPLES))


def _module(path: Path) -> Module:
    return Module(_name(path), path, ast.parse(path.read_text()))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def offences(allowed: tuple[str, ...], forbidden: set[str]) -> Iterator[str]:
    for module in modules():
        if not any(within(module.name, package) for package in allowed):
            for imported in module.imports:
                if any(within(imported, package) for package in forbidden):
                    yield f"{module.name} imports {imported}"


def test_there_are_modules_to_look_at() -> None:
    assert len(modules()) > 50
    assert {module.package for module in modules()} >= {"pipeline.nostr", "pipeline.store", "stages"}


def test_sample_consumers_know_nothing_of_the_project() -> None:
    samples = [_module(path) for path in (SAMPLES / "consumers").rglob("*.py")]
    assert len(samples) >= 3
    for sample in samples:
        assert not [each for each in sample.imports if each.split(".")[0] in ("pipeline", "stages", "tests")]


def test_sample_plugin_knows_the_interface_of_sinks_alone() -> None:
    known = {"pipeline.errors", "pipeline.sinks.attributes", "pipeline.sinks.base"}
    (plugin,) = (_module(path) for path in (SAMPLES / "plugins").rglob("*.py"))
    ours = {each.rpartition(".")[0] for each in plugin.imports if each.startswith(("pipeline", "stages", "tests"))}
    assert ours == known


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_imports_go_one_way(module: Module) -> None:
    if module.name == "pipeline":
        assert module.imports == set()
        return
    assert module.package, f"{module.name} has no place in the design"
    allowed = ALLOWED[module.package] | {module.package}
    if module.name == "stages.server":
        allowed |= {"pipeline.server"}
    ours = {imported for imported in module.imports if within(imported, "pipeline") or within(imported, "stages")}
    assert [imported for imported in ours if not any(within(imported, each) for each in allowed)] == []


def test_stages_do_not_know_each_other() -> None:
    for module in modules():
        if within(module.name, "stages"):
            assert not [imported for imported in module.imports if within(imported, "stages")], module.name


def test_only_the_command_line_knows_stages_and_finds_them_by_name() -> None:
    assert list(offences(("stages", "pipeline.cli"), {"stages"})) == []


def test_only_stages_server_knows_the_server() -> None:
    assert list(offences(("pipeline.server", "stages.server"), {"pipeline.server"})) == []


def test_sockets_are_opened_in_few_places() -> None:
    """A connection's thread (`pipeline/crawl/connection.py`) has its socket from `pipeline/relay`."""
    assert list(offences(MAY_USE_THE_NETWORK, NETWORK)) == []


def test_protocol_and_rules_do_no_input_or_output() -> None:
    doing = {
        *NETWORK,
        "os",
        "io",
        "pathlib",
        "subprocess",
        "threading",
        "time",
        "datetime",
        "apsw",
        "sqlite3",
        "random",
    }
    pure = [
        module for module in modules() if within(module.name, "pipeline.nostr") or within(module.name, "pipeline.rules")
    ]
    assert [(module.name, module.imports & doing) for module in pure if module.imports & doing] == []


PURE = (
    "pipeline.relay.session", "pipeline.relay.session_auth", "pipeline.relay.session_refusals",
    "pipeline.relay.requests", "pipeline.relay.open_subscriptions", "pipeline.relay.authentication",
    "pipeline.relay.limits", "pipeline.relay.refusals", "pipeline.relay.limit_inference",
    "pipeline.audit.findings", "pipeline.audit.walk",
    "pipeline.relay.silence", "pipeline.relay.doubts", "pipeline.relay.advertised", "pipeline.crawl.sync",
    "pipeline.crawl.selection", "pipeline.crawl.ranking", "pipeline.crawl.crowding", "pipeline.crawl.novelty",
    "pipeline.crawl.crew", "pipeline.crawl.last_tier_turns", "pipeline.crawl.plan_turns",
    "pipeline.crawl.reconnect", "pipeline.crawl.lost_relays", "pipeline.crawl.dial_queue",
    "pipeline.process.backoff", "pipeline.process.restart",
    "pipeline.probe.questions", "pipeline.probe.collector", "pipeline.probe.claims", "pipeline.probe.learned",
    "pipeline.probe.report", "pipeline.probe.exchange",
)  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_cores_do_no_input_or_output_and_know_no_clock(name: str) -> None:
    doing = {
        *NETWORK,
        "os",
        "pathlib",
        "subprocess",
        "threading",
        "time",
        "apsw",
        CLOCK,
        "pipeline.relay.blocking_websocket",
    }
    found = [module for module in modules() if within(module.name, name)]
    assert found
    for module in found:
        # Two threads count what events cost.
        refused = doing - {"threading"} if module.name == "pipeline.crawl.sync.costs" else doing
        assert not [each for each in module.imports if any(within(each, one) for one in refused)], module.name


def test_sync_of_one_relay_knows_nothing_of_the_process_around_it() -> None:
    for module in modules():
        if within(module.name, "pipeline.crawl.sync"):
            crawl = {each for each in module.imports if within(each, "pipeline.crawl")}
            assert not {each for each in crawl if not within(each, "pipeline.crawl.sync")}, module.name


@pytest.mark.parametrize("name", ["paging", "forms"])
def test_parts_of_sync_know_queries_and_no_sweep(name: str) -> None:
    known = tuple(f"pipeline.crawl.sync.{each}" for each in ("asked_kinds", "query", "plan", "paging", name))
    for module in modules():
        if within(module.name, f"pipeline.crawl.sync.{name}"):
            sync = {each for each in module.imports if within(each, "pipeline.crawl.sync.")}
            assert not {each for each in sync if not any(within(each, one) for one in known)}, module.name


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Not even late, within a function."""
    names = {module.name for module in modules()}
    of = {module.name: {_known(each, names) for each in module.imports} - {module.name, ""} for module in modules()}
    TopologicalSorter(of).prepare()


def _known(imported: str, names: set[str]) -> str:
    """The module of ours that a module or a name in it belongs to, if any."""
    return next((each for each in (imported, imported.rpartition(".")[0]) if each in names), "")


def test_only_store_and_import_speak_to_the_database() -> None:
    """Outside it the name of its error is all that anybody uses of the driver."""
    assert list(offences((), {"sqlite3"})) == []
    for module in modules():
        if not any(within(module.name, each) for each in SPEAKS_TO_THE_DATABASE):
            assert not [imported for imported in module.imports if within(imported, "apsw") and imported != "apsw"]
            used = {
                node.attr for node in ast.walk(module.tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "apsw"
            }  # fmt: skip
            assert used <= {"Error"}, module.name


def test_only_the_hub_knows_its_driver() -> None:
    assert list(offences(SPEAKS_TO_THE_HUB, {"psycopg"})) == []


def test_statements_are_written_in_store_and_import_only() -> None:
    for module in modules():
        if any(within(module.name, each) for each in (*SPEAKS_TO_THE_DATABASE, *SPEAKS_TO_THE_HUB)):
            continue
        texts = [node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
        assert not [text for text in texts if isinstance(text, str) and SQL.match(text)], module.name


def test_only_the_clock_reads_a_clock() -> None:
    assert list(offences((CLOCK,), {"time"})) == []
    for module in modules():
        calls = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
        read = [
            ast.unparse(call) for call in calls
            if isinstance(call, ast.Attribute) and call.attr in READS_A_CLOCK
            and ast.unparse(call.value).rpartition(".")[2] in ("datetime", "date")
        ]  # fmt: skip
        assert read == [], module.name
