"""An audit from its scope to its report: relays side by side, then what seems to be missing is looked for again.

What a relay has and the service has not may be on its way. So each such event is looked for once more, `settle_s`
after it was found; what is still unknown is a miss. It is explained first, noted, and then put into the inbox like an
event of the crawl.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from pipeline.audit.client import AskedTooLong, AskPolicy, Interrupted, RelayClient
from pipeline.audit.findings import Answer, AuditedRelay, AuditReport, Miss, Suspect, held_counts, report
from pipeline.audit.journal import Findings, Journal, Scope
from pipeline.audit.judge import CrawlReach, Judge
from pipeline.audit.relay_audit import Held, RelayAudit, Span, is_step
from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.nostr.event import event_from_json
from pipeline.process.clock import Clock
from pipeline.process.stop import Stop
from pipeline.relay.errors import ConnectionLost, DialError
from pipeline.rules.acceptance import EventLimits
from pipeline.status.explain import explain_event
from pipeline.store import audits, inbox
from pipeline.store.database import Database, Tx
from pipeline.store.inbox import Arrival
from pipeline.store.relay_records import RelayRecord

RELAYS_AT_ONCE: Final = 8
_LOOK_S: Final = 1.0
# Misses of one transaction.
_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """How an audit is done.

    `settle_s`: after what time an event that is unknown is a miss; `fetches`: misses are put into the inbox.
    """

    ask: AskPolicy
    limits: EventLimits
    reach: CrawlReach
    settle_s: float
    fetches: bool
    suppresses_retracted: bool


class Audit:
    """One audit, with what it found before it was interrupted."""

    def __init__(
        self, scope: Scope, policy: AuditPolicy, open_database: Callable[[], Database], clock: Clock, stop: Stop,
        journal: Journal, findings: Findings | None = None,
    ) -> None:  # fmt: skip
        self.findings = Findings() if findings is None else findings
        self._scope = scope
        self._policy = policy
        self._open_database = open_database
        self._clock = clock
        self._stop = stop
        self._journal = journal
        self._lock = threading.Lock()
        self._has_held = False
        self._held_lock = threading.Lock()
        # For the threads that ask: the audit is over, whatever goes on around it.
        self._ended = Stop()
        self._on_steps: Callable[[int], object] = lambda _: None

    @property
    def steps(self) -> int:
        """How many steps there are: questions to relays."""
        return len(self._scope.relays) * self._questions

    @property
    def _questions(self) -> int:
        return sum(1 + each.is_user for each in self._scope.subjects)

    def ask(self, records: Sequence[RelayRecord], on_steps: Callable[[int], object] = lambda _: None) -> None:
        """Ask the relays of the scope that are not done; `on_steps` is called with how many more steps are.

        Of several threads one calls it at a time. Raises `Interrupted`; any error ends all.
        """
        self._on_steps = on_steps
        over = {each.relay for each in self.findings.relays}
        left = [each for each in records if each.relay in self._scope.relays and each.relay not in over]
        on_steps(self.steps - len(left) * self._questions)
        with ThreadPoolExecutor(RELAYS_AT_ONCE, "audit") as pool:
            try:
                pending = {pool.submit(self._ask_one, each) for each in left}
                while pending:
                    done, pending = wait(pending, _LOOK_S, FIRST_COMPLETED)
                    for each in done:
                        self._end_relay(each.result())
                    self._check_stop()
            except BaseException:
                self._ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def settle(self, database: Database, on_fetched: Callable[[], object] = lambda: None) -> int:
        """Look again for what seems to be missing, and put it into the inbox; return how much came by itself.

        `on_fetched` is called after each commit of misses. Raises `Interrupted`.
        """
        late = 0
        found: dict[bytes, list[Suspect]] = {}
        for each in self.findings.candidates:
            found.setdefault(each.event_id, []).append(each)
        noted = [(miss, found.pop(miss.event_id)) for miss in self.findings.misses if miss.event_id in found]
        self._fetch_again(database, [group[0] for miss, group in noted if miss.is_fetched])
        on_fetched()
        groups = sorted(found.values(), key=lambda group: min(each.found_at for each in group))
        for first in range(0, len(groups), _AT_ONCE):
            part = groups[first : first + _AT_ONCE]
            self._wait_until(
                max(each.found_at for group in part for each in group) + round(self._policy.settle_s * 1000)
            )
            with database.read() as tx:
                known = audits.known(tx, [(group[0].event_id, group[0].created_at) for group in part])
            late += len(known)
            self._note_misses(database, [group for group in part if group[0].event_id not in known])
            on_fetched()
        return late

    def report(self, late: int) -> AuditReport:
        """Return what was found."""
        found = self.findings
        relays = sorted(found.relays, key=lambda each: self._scope.relays.index(each.relay))
        held = held_counts(found.ids, self._scope.until)
        return report(relays, found.answers, held, found.misses, late, self._scope.until)

    def _end_relay(self, over: AuditedRelay) -> None:
        with self._lock:
            self._journal.relay(over)
            self.findings.relays.append(over)
            self._on_steps(self._questions - self._steps_of(over.relay))

    def _steps_of(self, relay: int) -> int:
        return sum(is_step(name) for name in self.findings.answered_by(relay))

    def _ask_one(self, record: RelayRecord) -> AuditedRelay:
        def problem(text: str) -> AuditedRelay:
            return AuditedRelay(record.relay, record.address, text)

        try:
            address = parse_address(record.dialled)
        except InvalidAddress as error:
            return problem(str(error))
        client = RelayClient(address, record.limits, self._policy.ask, self._clock, self._ended)
        done = self.findings.answered_by(record.relay)
        with self._lock:
            self._on_steps(self._steps_of(record.relay))
        with self._open_database() as database:
            judge = Judge(
                database, self._policy.limits, self._policy.reach, self._clock,
                suppresses_retracted=self._policy.suppresses_retracted,
            )  # fmt: skip
            one = RelayAudit(record, client, judge, Span(self._scope.since, self._scope.until), self._take)
            try:
                return problem(one.run(self._scope.subjects, done, lambda keys: self._holdings(database, keys)))
            except (DialError, ConnectionLost, AskedTooLong) as error:
                if self._ended.is_set():
                    raise Interrupted from error
                return problem(str(error))
            finally:
                client.close()

    def _take(self, answer: Answer, candidates: Sequence[Suspect]) -> None:
        with self._lock:
            self._journal.answer(answer, candidates)
            self.findings.take(answer, candidates)
            self._on_steps(is_step(answer.question))

    def _holdings(self, database: Database, keys: Sequence[bytes]) -> Held:
        """Return what is held of some subjects; that of all is read for the first relay that compares sets."""
        ids, scope = self.findings.ids, self._scope
        with self._held_lock:
            if not self._has_held:
                everyone = [each.key for each in scope.subjects]
                for items in audits.held(database, everyone, scope.since, scope.until, self._check_ended):
                    ids.put_ours(items)
                self._has_held = True
        return ids.ours(keys)

    def _check_ended(self) -> None:
        if self._ended.is_set():
            raise Interrupted

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted

    def _wait_until(self, at_ms: int) -> None:
        while (left_ms := at_ms - self._clock.now_ms()) > 0:
            if self._stop.wait(min(_LOOK_S, left_ms / 1000)):
                raise Interrupted
        self._check_stop()

    def _note_misses(self, database: Database, groups: Sequence[Sequence[Suspect]]) -> None:
        misses = list(self._explained(database, groups))
        if not misses:
            return
        # Before they are fetched: an audit that goes on would not tell them from what came by itself.
        self._journal.misses(misses)
        self.findings.misses += misses
        with database.write() as tx:
            audits.count_missed(tx, len(misses))
            if self._policy.fetches:
                self._fetch(tx, [group[0] for group in groups])

    def _fetch_again(self, database: Database, noted: Sequence[Suspect]) -> None:
        """Put misses into the inbox that an audit noted which was killed before they were fetched."""
        for first in range(0, len(noted) if self._policy.fetches else 0, _AT_ONCE):
            with database.write() as tx:
                audits.count_missed(tx, self._fetch(tx, noted[first : first + _AT_ONCE]))

    def _fetch(self, tx: Tx, misses: Iterable[Suspect]) -> int:
        """Put misses into the inbox; return how many were not there."""
        now = self._clock.now_ms()
        return len(inbox.append(tx, (Arrival(m.event_id, m.raw, m.relay, now, m.created_at) for m in misses)))

    def _explained(self, database: Database, groups: Sequence[Sequence[Suspect]]) -> Iterator[Miss]:
        for group in groups:
            one = group[0]
            event = event_from_json(one.raw)
            with database.read() as tx:
                trace = explain_event(tx, one.event_id, one.created_at)
            yield Miss(
                one.event_id, one.created_at, event.kind, event.pubkey, one.rule,
                tuple(dict.fromkeys(each.relay for each in group)),
                tuple((line.subject, line.text) for line in trace[1:]), self._policy.fetches,
            )  # fmt: skip
