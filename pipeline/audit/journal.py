"""The journal of one audit: a line of JSON for each step, so that an audit that was killed goes on.

The first line is what the audit is about. An answer is written once it is complete, with the events that seem to be
missing; a miss before it is fetched. A last line that broke off is what was being written when the process was killed:
that step is done again.
"""

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from pipeline.audit.findings import Answer, AuditedRelay, Miss, Suspect
from pipeline.audit.walk import Unproven
from pipeline.errors import EventServiceError
from pipeline.rules.relevance import Rule
from pipeline.store.audit_ids import AuditIds
from pipeline.store.audits import AuditSubject

_VERSION = 1


class UnusableJournal(EventServiceError):
    """The file is no journal of an audit, or of another version."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an audit is about: a span (Unix seconds), whom it asks about, and relays by number."""

    since: int
    until: int
    subjects: tuple[AuditSubject, ...]
    relays: tuple[int, ...]


@dataclass(slots=True)
class Findings:
    """What an audit has found so far."""

    answers: list[Answer] = field(default_factory=list)
    candidates: list[Suspect] = field(default_factory=list)
    relays: list[AuditedRelay] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    ids: AuditIds = field(default_factory=AuditIds)
    """What the answers had."""

    def take(self, answer: Answer, candidates: Sequence[Suspect]) -> None:
        """Keep an answer: what it had goes into `ids`, which need little memory."""
        self.ids.put_returned(answer.relay, answer.rule.value, answer.had)
        self.answers.append(replace(answer, had=()))
        self.candidates += candidates

    def answered_by(self, relay: int) -> frozenset[str]:
        """Return the names of the questions that a relay has answered."""
        return frozenset(each.question for each in self.answers if each.relay == relay)


class Journal:
    """An open journal; for one thread at a time. Without a path it keeps nothing."""

    def __init__(self, path: Path | None, scope: Scope, *, is_new: bool = True) -> None:
        """Raises `UnusableJournal` if another audit writes it."""
        self._file: IO[bytes] | None = None
        if path is not None:
            self._file = path.open("ab")
            try:
                _lock(self._file)
            except UnusableJournal:
                self._file.close()
                raise
            if is_new:
                self._file.truncate(0)
                self._write({"audit": _VERSION} | _scope_value(scope))

    def answer(self, answer: Answer, candidates: Sequence[Suspect]) -> None:
        """Note an answer."""
        self._write({"answer": _answer_value(answer), "missing": [_candidate_value(each) for each in candidates]})

    def relay(self, relay: AuditedRelay) -> None:
        """Note that a relay was asked everything, or why it was not."""
        self._write({"relay": relay.relay, "address": relay.address, "problem": relay.problem})

    def misses(self, misses: Sequence[Miss]) -> None:
        """Note what is missing for certain."""
        self._write({"misses": [miss_value(each) for each in misses]})

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, value: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
            self._file.flush()


def read_journal(path: Path) -> tuple[Scope, Findings]:
    """Return what a journal says, and cut off a last line that is not whole.

    Raises `UnusableJournal`, also if that line is being written.
    """
    found, whole = Findings(), 0
    try:
        with path.open("rb") as file:
            first = file.readline()
            head = json.loads(first) if first.endswith(b"\n") else {}
            if head.get("audit") != _VERSION:
                raise UnusableJournal(f"{path} is no journal of an audit by this version")
            scope, whole = _scope(head), len(first)
            # Line by line: the whole may be larger than the memory.
            for line in file:
                if line.endswith(b"\n"):
                    _take(json.loads(line), found)
                    whole += len(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableJournal(f"{path} is no journal of an audit: {error}") from error
    if whole < path.stat().st_size:
        with path.open("r+b") as file:
            _lock(file)
            file.truncate(whole)
    return scope, found


def _lock(file: IO[bytes]) -> None:
    """Keep other audits from writing the file until it is closed. Raises `UnusableJournal`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UnusableJournal(f"another audit writes {file.name}") from error


def miss_value(miss: Miss) -> dict[str, Any]:
    """Return a miss as a JSON value."""
    return {
        "id": miss.event_id.hex(), "created_at": miss.created_at, "kind": miss.kind, "author": miss.author.hex(),
        "rule": miss.rule.value, "relays": list(miss.relays), "explain": [list(line) for line in miss.trace],
        "fetched": miss.is_fetched,
    }  # fmt: skip


def _take(line: dict[str, Any], found: Findings) -> None:
    if "answer" in line:
        answer = _answer(line["answer"])
        found.take(answer, [_candidate(each, answer) for each in line["missing"]])
    elif "misses" in line:
        found.misses += [_miss(each) for each in line["misses"]]
    else:
        found.relays.append(AuditedRelay(int(line["relay"]), str(line["address"]), str(line["problem"])))


def _scope_value(scope: Scope) -> dict[str, Any]:
    subjects = [[each.key.hex(), each.since, each.is_user] for each in scope.subjects]
    return {"since": scope.since, "until": scope.until, "subjects": subjects, "relays": list(scope.relays)}


def _scope(value: dict[str, Any]) -> Scope:
    subjects = tuple(AuditSubject(bytes.fromhex(key), since, is_user) for key, since, is_user in value["subjects"])
    return Scope(int(value["since"]), int(value["until"]), subjects, tuple(value["relays"]))


def _answer_value(answer: Answer) -> dict[str, Any]:
    return {
        "relay": answer.relay, "question": answer.question, "rule": answer.rule.value,
        "had": [[created_at, event_id.hex()] for created_at, event_id in answer.had],
        "excluded": dict(answer.excluded), "by_ids": answer.by_ids,
        "unproven": [[each.since, each.until, each.why] for each in answer.unproven],
    }  # fmt: skip


def _answer(value: dict[str, Any]) -> Answer:
    return Answer(
        int(value["relay"]), value["question"], Rule(value["rule"]),
        tuple((created_at, bytes.fromhex(event_id)) for created_at, event_id in value["had"]), value["excluded"],
        tuple(Unproven(*each) for each in value["unproven"]), by_ids=value["by_ids"],
    )  # fmt: skip


def _candidate_value(each: Suspect) -> dict[str, Any]:
    return {"id": each.event_id.hex(), "at": each.created_at, "found_at": each.found_at, "event": each.raw.hex()}


def _candidate(value: dict[str, Any], answer: Answer) -> Suspect:
    event_id, raw = bytes.fromhex(value["id"]), bytes.fromhex(value["event"])
    return Suspect(answer.relay, answer.rule, event_id, int(value["at"]), raw, int(value["found_at"]))


def _miss(value: dict[str, Any]) -> Miss:
    return Miss(
        bytes.fromhex(value["id"]), int(value["created_at"]), int(value["kind"]), bytes.fromhex(value["author"]),
        Rule(value["rule"]), tuple(value["relays"]), tuple((subject, text) for subject, text in value["explain"]),
        bool(value["fetched"]),
    )  # fmt: skip
