"""What becomes of the outcomes of one relay's session."""

from pipeline.crawl.context import CrawlContext
from pipeline.crawl.flow_control import RelayBatcher
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.relay_status import StatusRecorder
from pipeline.crawl.sync.forms.audit import FormAudit
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.nostr.auth import auth_event
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.negentropy_session import NegFinished, NegMessageReceived, NegOutcome
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session, SessionEvent
from pipeline.relay.session_auth import AuthWanted
from pipeline.relay.subscription import LiveEnded, PageEnded


class Outcomes:
    """Lets the crawl, the host, the relay's row and the intake know what concerns them. Owned by the connection."""

    __slots__ = ("_batcher", "_context", "_host", "_metrics", "_recorder", "_session", "_sync")

    def __init__(
        self, sync: RelaySync, session: Session, host: HostBackoff, metrics: RelayMetrics, recorder: StatusRecorder,
        batcher: RelayBatcher, context: CrawlContext,
    ) -> None:  # fmt: skip
        self._sync = sync
        self._session = session
        self._host = host
        self._metrics = metrics
        self._recorder = recorder
        self._batcher = batcher
        self._context = context

    def on_outcome(self, outcome: SessionEvent, now: float) -> None:
        """Act on one outcome."""
        match outcome:
            case PageEnded():
                self._on_page_ended(outcome, now)
            case LiveEnded():
                self._sync.on_live_ended(outcome, now)
                self._on_refused(outcome.refusal, outcome.detail, now)
            case NegMessageReceived():
                self._sync.on_neg_message(outcome, self._session, now)
            case NegFinished():
                self._sync.on_neg_finished(outcome, self._session)
                if outcome.end is NegOutcome.RATE_LIMITED:
                    self._host.on_rate_limited(now)
                self._metrics.crawled(self._sync.stats)
            case AuthWanted(challenge=challenge, address=address):
                self._authenticate(self._recorder.auth_addresses[address], challenge, now)

    def _on_page_ended(self, ended: PageEnded, now: float) -> None:
        cursor = self._sync.on_page_ended(ended, self._session, now)
        progress = self._sync.take_progress()
        gaps = self._sync.gaps.take_changes()
        forms = self._sync.take_form_changes(self._session.limits)
        if cursor is not None or progress or gaps or forms:
            moved = () if cursor is None else (cursor,)
            self._batcher.enqueue_metadata(cursors=moved, progress=progress, gaps=gaps, forms=forms)
        self._metrics.crawled(self._sync.stats)
        if ended.refusal is None:
            self._host.on_success()
        elif ended.key != FormAudit.KEY or ended.refusal is RelayRefusal.RATE_LIMITED:
            # A refused control keeps nothing from us.
            self._on_refused(ended.refusal, ended.detail, now)

    def _authenticate(self, address: str, challenge: str, now: float) -> None:
        secret = self._context.secret
        assert secret is not None, "wanted only where it can be given"
        wall = self._context.clock.now_ms() // 1000
        self._session.authenticate(auth_event(secret, address, challenge, wall), now)

    def _on_refused(self, refusal: RelayRefusal, detail: str, now: float) -> None:
        if refusal is RelayRefusal.RATE_LIMITED:
            self._host.on_rate_limited(now)
        self._metrics.refusal(refusal)
        if refusal is RelayRefusal.AUTH_REQUIRED and self._context.secret is None:
            detail = f"no key is configured (EVENTS_SECRET_KEY_PATH): {detail}"
        is_looked_into = refusal.may_be_of_size and self._sync.trials.is_under_way
        if not refusal.asks_for_less and refusal is not RelayRefusal.UNCLEAR and not is_looked_into:
            # What is had by asking for less is no trouble of the operator's.
            self._recorder.on_refused(refusal, detail)
        relay = self._recorder.address
        self._context.log.debug(f"{relay} {refusal}", "refused", relay=relay, reason=refusal, text=detail)
