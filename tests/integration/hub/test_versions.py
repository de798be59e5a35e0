"""Hosts of two releases on one hub: what a new release adds lies beside what the one before calls."""

import shutil
from pathlib import Path

import pytest

from pipeline.hub import installer
from pipeline.hub.connection import HubRefused
from stages import hub as hub_stage
from stages import uplink
from tests.factories.events import SignedEvent, authors
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import Edge, inbox_ids
from tests.integration.stages.support import NOW, Running, World, wait_until

(ALICE,) = authors(76, 1)
NEXT_TABLES = """
ALTER TABLE hub.parcels ADD COLUMN compressed boolean NOT NULL DEFAULT false;
ALTER TABLE hub.hosts ADD COLUMN region text NOT NULL DEFAULT '';
"""
NEXT_FUNCTIONS = """
CREATE OR REPLACE FUNCTION hub.hand_over_v2(name text, its_number bigint, parts bytea[]) RETURNS TABLE (answer text)
  LANGUAGE sql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT 'of the next release' $$;
SELECT hub.permit('hand_over_v2', 'edge');

CREATE OR REPLACE FUNCTION hub.parcels_v2(names text[]) RETURNS TABLE (stream text, compressed boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT p.stream, p.compressed FROM parcels p $$;
SELECT hub.permit('parcels_v2', 'home');
"""


def notes(count: int) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(count)]


def migrate_to_the_next_release(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its `hub migrate` does: this release's functions and those that it adds."""
    folder = tmp_path / "sql"
    shutil.copytree(installer._SQL, folder)
    (folder / "tables" / "9000_next.sql").write_text(NEXT_TABLES)
    (folder / "functions" / "next.sql").write_text(NEXT_FUNCTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(installer, "_SQL", folder)
        assert installer.migrate(hub.owner) == ["9000_next"]


def test_hosts_of_the_release_before_go_on_after_the_migration(
    hub: Hub, edge: Edge, home: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(edge.context("uplink"), uplink.run), Running(home.context("hub"), hub_stage.run):
        edge.accept(notes(100))
        wait_until(lambda: home.inbox_size() == 100, "taken")
        migrate_to_the_next_release(hub, tmp_path, monkeypatch)
        edge.accept(notes(200), complete_until=NOW)
        wait_until(lambda: home.inbox_size() == 200, "taken by connections from before")
    with Running(edge.context("uplink"), uplink.run), Running(home.context("hub"), hub_stage.run):
        edge.accept(notes(300))
        wait_until(lambda: home.inbox_size() == 300 and not edge.unsent(), "taken by new connections")
    assert set(inbox_ids(home)) == {event.id for event in notes(300)}


def test_host_of_the_next_release_says_what_to_update_first(
    hub: Hub, edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "FUNCTIONS", (*uplink.FUNCTIONS, "hand_over_v2"))
    edge.accept(notes(10))
    with Running(edge.context("uplink"), uplink.run) as running:
        error = running.wait_over()
    assert isinstance(error, HubRefused)
    assert str(error) == (
        "the hub lacks hand_over_v2: update the home host first and run event-service hub migrate there"
    )
    assert edge.inbox_size() == 10, "nothing is lost by it"
    migrate_to_the_next_release(hub, tmp_path, monkeypatch)
    with Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: not edge.inbox_size() and not edge.unsent(), "sent")


def test_release_before_does_not_migrate_a_newer_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate_to_the_next_release(hub, tmp_path, monkeypatch)
    with pytest.raises(HubRefused, match="newer event-service \\(9000_next\\)"):
        installer.migrate(hub.owner)
