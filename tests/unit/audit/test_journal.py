"""The journal of an audit: what was found is read again, also after a line that broke off."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit.findings import Answer, AuditedRelay, Miss, Suspect
from pipeline.audit.journal import Journal, Scope, UnusableJournal, read_journal
from pipeline.audit.walk import Unproven
from pipeline.rules.relevance import Rule
from pipeline.store.audits import AuditSubject

SCOPE = Scope(1, 2, (AuditSubject(b"a" * 32, 5, is_user=True), AuditSubject(b"b" * 32, 6, is_user=False)), (7, 8))
ANSWER = Answer(
    7, "author:61", Rule.MENTION, ((1, b"x" * 32),), {"future": 2}, (Unproven(1, 2, "refused"),), by_ids=True
)
CANDIDATE = Suspect(7, Rule.MENTION, b"y" * 32, 3, b'{"id":"\xc3\xa9"}', 99)
MISS = Miss(b"y" * 32, 3, 1, b"a" * 32, Rule.MENTION, (7, 8), (("relevant", "yes"),), is_fetched=True)


def write(path: Path) -> None:
    journal = Journal(path, SCOPE)
    journal.answer(ANSWER, [CANDIDATE])
    journal.relay(AuditedRelay(7, "wss://one.example", "refused"))
    journal.misses([MISS])
    journal.close()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write(tmp_path / "journal")
    scope, found = read_journal(tmp_path / "journal")
    assert scope == SCOPE
    assert (found.answers, found.candidates, found.misses) == ([replace(ANSWER, had=())], [CANDIDATE], [MISS])
    assert list(found.ids.returned()) == [(1, Rule.MENTION.value)]
    assert found.relays == [AuditedRelay(7, "wss://one.example", "refused")]
    assert found.answered_by(7) == {"author:61"}
    assert not found.answered_by(8)


def test_last_line_that_broke_off_is_cut_off_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path)
    path.write_bytes(path.read_bytes()[:-20])
    scope, found = read_journal(path)
    assert not found.misses
    journal = Journal(path, scope, is_new=False)
    journal.misses([MISS])
    journal.close()
    assert read_journal(path)[1].misses == [MISS]


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"audit":99}\n', "x\n", '{"audit":1}\n{"answer":{}}\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal").write_text(text)
    with pytest.raises(UnusableJournal):
        read_journal(tmp_path / "journal")


def test_second_writer_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal", SCOPE)
    with pytest.raises(UnusableJournal):
        Journal(tmp_path / "journal", SCOPE)
    first.close()
    Journal(tmp_path / "journal", SCOPE).close()


def test_line_that_another_audit_is_writing_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    other = Journal(path, SCOPE)
    with path.open("ab") as file:
        file.write(b'{"answer":')
    with pytest.raises(UnusableJournal, match="another audit writes"):
        read_journal(path)
    assert path.read_bytes().endswith(b'{"answer":')
    other.close()
    assert read_journal(path)[0] == SCOPE
    assert path.read_bytes().endswith(b"\n")


def test_new_journal_replaces_the_one_before(tmp_path: Path) -> None:
    write(tmp_path / "journal")
    Journal(tmp_path / "journal", SCOPE).close()
    assert not read_journal(tmp_path / "journal")[1].answers


def test_without_a_path_nothing_is_kept() -> None:
    journal = Journal(None, SCOPE)
    journal.misses([MISS])
    journal.close()
