"""Google Pub/Sub's publisher service on loopback, by grpcio's generic handlers: it records, and it can misbehave.

In the test's own process: `with FakePubSub() as pubsub: … pubsub.deliveries()`. As a process of its own, for loads that
must not share the test's interpreter: `PubSubProcess`, or by hand

    python -m tests.fakes.pubsub --port 0 --topic projects/test/topics/nostr-events [--script '[{"status": …}]'] \
        [--record FILE | --count-only]

Both find themselves through `PUBSUB_EMULATOR_HOST`, as the emulator does.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic
from typing import NoReturn, Self

import grpc

from tests.fakes import wire
from tests.fakes.net import loopback_address
from tests.fakes.pubsub_record import Batch, Recorder
from tests.fakes.pubsub_rules import Rule, Script
from tests.oracle.delivery import Delivered

PROJECT: str = "test"
TOPIC: str = f"projects/{PROJECT}/topics/nostr-events"
MAX_REQUEST_BYTES = 10_000_000
"""Pub/Sub refuses more in one request."""
MAX_REQUEST_MESSAGES = 1000
"""Pub/Sub refuses more in one request."""
MAX_HANG_S = 120.0
"""A hanging answer ends by itself, so that no thread outlives a test run by much."""
WORKERS = 16
"""Requests served at once; a hanging one keeps its worker."""
DEFAULT_TIMEOUT_S: float = 60.0
_SERVICE = "/google.pubsub.v1.Publisher/"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that came in, answered or not: the method's name, messages in it, and the status it got."""

    method: str
    messages: int
    status: str


class FakePubSub:
    """The server. Everything public is thread-safe; `start` after `stop` listens on the same port again.

    With `count_only` messages are counted and dropped; with `record` every batch is in that file before it is
    answered, for reading with `read_record`.
    """

    def __init__(
        self,
        *,
        topics: Iterable[str] = (TOPIC,),
        rules: Sequence[Rule] = (),
        count_only: bool = False,
        record: Path | None = None,
        on_die: Callable[[], None] | None = None,
        host: str | None = None,
    ) -> None:
        self.topics = set(topics)
        self.script = Script(rules)
        self.host = host or loopback_address()
        self.port = 0
        self._recorder = Recorder(count_only=count_only, path=record)
        self._calls: list[Call] = []
        self._begun = 0
        self._changed = threading.Condition()
        self._ids = count(1)
        self._on_die = on_die or (lambda: threading.Thread(target=self.stop, daemon=True).start())
        self._server: grpc.Server | None = None
        self._ended = threading.Event()
        self._stopping = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._recorder.close()

    @property
    def address(self) -> str:
        """`host:port`, for `PUBSUB_EMULATOR_HOST`."""
        return f"{self.host}:{self.port}"

    def start(self, port: int | None = None) -> int:
        """Listen on `port` (0: any), by default on the one it had before. Returns the port."""
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 2 * MAX_REQUEST_BYTES)]
        self._ended.clear()
        self._server = grpc.server(ThreadPoolExecutor(WORKERS, "pubsub"), options=options)
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        wanted = self.port if port is None else port
        self.port = self._server.add_insecure_port(f"{self.host}:{wanted}")
        self._server.start()
        return self.port

    def stop(self) -> None:
        """Break all connections and stop listening; what was recorded stays."""
        self._ended.set()
        with self._stopping:
            if self._server is not None:
                self._server.stop(grace=None).wait(DEFAULT_TIMEOUT_S)
                self._server = None

    def set_rules(self, *rules: Rule) -> None:
        """Replace the script; no rules: answer as Pub/Sub does."""
        self.script = Script(rules)

    @property
    def count(self) -> int:
        """Messages taken so far, repeats included."""
        return self._recorder.messages

    @property
    def begun(self) -> int:
        """Publish calls that came in so far, answered or not."""
        return self._begun

    def calls(self) -> list[Call]:
        """Every call so far, in order of its answer."""
        with self._changed:
            return list(self._calls)

    def batches(self) -> list[Batch]:
        """What was taken, one item per request; empty with `count_only`."""
        return self._recorder.batches()

    def deliveries(self) -> list[Delivered]:
        """Every message that was taken, for the ledger."""
        return [delivered for batch in self.batches() for delivered in batch.deliveries()]

    def wait(self, condition: Callable[["FakePubSub"], bool], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Return once `condition` holds, looked at as each call comes and ends; raises `TimeoutError`."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while not condition(self):
                left = deadline - monotonic()
                if left <= 0:
                    raise TimeoutError(f"after {timeout_s} s: {self.count} messages, calls {self._calls[-5:]}")
                self._changed.wait(left)

    def wait_count(self, messages: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Return once so many messages have been taken, repeats included."""
        self.wait(lambda server: server.count >= messages, timeout_s)

    def _note(self, method: str, messages: int, status: str) -> None:
        with self._changed:
            self._calls.append(Call(method, messages, status))
            self._changed.notify_all()

    def publish(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        """Serve one Publish call."""
        with self._changed:
            self._begun += 1
            self._changed.notify_all()
        topic, messages = wire.publish_request(raw)
        rule = self.script.choose(messages)
        if rule is not None:
            self._play(rule, raw, messages, context)
        elif topic not in self.topics:
            self._refuse(context, "NOT_FOUND", f"Resource not found (resource={topic.rpartition('/')[2]}).", messages)
        elif len(messages) > MAX_REQUEST_MESSAGES or len(raw) > MAX_REQUEST_BYTES or not all(messages):
            self._refuse(context, "INVALID_ARGUMENT", "The request is too large or has an empty message.", messages)
        return self._take(raw, len(messages), "OK")

    def _take(self, raw: bytes, messages: int, status: str) -> bytes:
        self._recorder.add(Batch(time.time(), raw), messages)
        self._note("Publish", messages, status)
        return wire.publish_response([b"%d" % next(self._ids) for _ in range(messages)])

    def _play(self, rule: Rule, raw: bytes, messages: Sequence[bytes], context: grpc.ServicerContext) -> None:
        """Do what `rule` says; returns when the call is to be answered as usual."""
        if rule.delay_s:
            self._ended.wait(rule.delay_s)
        if rule.store and (rule.status or rule.hang or rule.die):
            self._take(raw, len(messages), rule.status or "stored")
        if rule.die:
            self._on_die()
        if rule.hang or rule.die:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait(MAX_HANG_S)
            self._refuse(context, "UNAVAILABLE", "hung", messages)
        if rule.status is not None:
            self._refuse(context, rule.status, rule.detail, [] if rule.store else messages)

    def _refuse(self, context: grpc.ServicerContext, status: str, detail: str, messages: Sequence[bytes]) -> NoReturn:
        self._note("Publish", len(messages), status)
        context.abort(grpc.StatusCode[status], detail)

    def create_topic(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        """Serve CreateTopic: the name is the request's first field."""
        name = wire.first_field(raw, 1).decode()
        if name in self.topics:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Topic already exists")
        self.topics.add(name)
        self._note("CreateTopic", 0, "OK")
        return wire.field(1, name.encode())

    def get_topic(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        """Serve GetTopic."""
        name = wire.first_field(raw, 1).decode()
        status = "OK" if name in self.topics else "NOT_FOUND"
        self._note("GetTopic", 0, status)
        if status != "OK":
            context.abort(grpc.StatusCode.NOT_FOUND, "Topic not found")
        return wire.field(1, name.encode())


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Routes by method name; requests and answers stay raw bytes."""

    def __init__(self, server: FakePubSub) -> None:
        self._methods = {
            f"{_SERVICE}{name}": grpc.unary_unary_rpc_method_handler(method)
            for name, method in (
                ("Publish", server.publish),
                ("CreateTopic", server.create_topic),
                ("GetTopic", server.get_topic),
            )
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._methods.get(handler_call_details.method)


if __name__ == "__main__":
    from tests.fakes.pubsub_process import main

    main()
