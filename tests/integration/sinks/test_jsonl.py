"""The JSONL sink on real files, full and broken ones, and standard output on real pipes."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import CannotStart
from pipeline.sinks.base import DELIVERED, SinkDown
from pipeline.sinks.jsonl import JsonlSink, StdoutSink
from tests.factories.events import SignedEvent, is_authentic
from tests.factories.workload import read_events
from tests.fakes.child import ROOT, Child
from tests.integration.delivery.support import ALICE, PATIENCE_S, Loop, Outbox, message, messages, notes, wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def sink(path: Path) -> Iterator[JsonlSink]:
    opened = JsonlSink(path)
    yield opened
    opened.close()


def lines(path: Path) -> list[SignedEvent]:
    """The events in a file of whole lines, each of them authentic."""
    assert path.read_bytes()[-1:] in (b"", b"\n")
    found = read_events(path)
    assert all(is_authentic(event) for event in found)
    return found


def test_one_plain_event_per_line(sink: JsonlSink, path: Path) -> None:
    signed = [*notes(3), *notes(1, first=9, size=300_000)]
    assert sink.deliver(messages(signed[:2])) == [DELIVERED] * 2
    assert sink.deliver(messages(signed[2:])) == [DELIVERED] * 2
    assert lines(path) == signed
    assert path.read_bytes() == b"".join(message(event).payload + b"\n" for event in signed)


def test_a_newline_in_a_text_is_no_end_of_line(sink: JsonlSink, path: Path) -> None:
    event = notes(1)[0]
    strange = ALICE.sign("one\ntwo\r\n\u2028three\x00", created_at=event.created_at)
    sink.deliver(messages([strange, event]))
    assert path.read_bytes().count(b"\n") == 2
    assert [each.id for each in lines(path)] == [strange.id, event.id]


def test_an_existing_file_is_appended_to(path: Path) -> None:
    path.write_bytes(message(notes(1)[0]).payload + b"\n")
    sink = JsonlSink(path)
    sink.deliver(messages(notes(1, first=1)))
    sink.close()
    assert lines(path) == notes(2)


def test_a_new_file_is_not_for_everybody(sink: JsonlSink, path: Path) -> None:
    sink.deliver(messages(notes(1)))
    assert path.stat().st_mode & 0o137 == 0


@pytest.mark.parametrize("where", ["missing/events.jsonl", "", "file/events.jsonl"])
def test_a_path_that_cannot_be_written_stops_the_stage(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="EVENTS_SINK"):
        JsonlSink(tmp_path / where)


def test_a_file_that_was_moved_away_is_begun_anew(sink: JsonlSink, path: Path) -> None:
    """As logrotate does it, with and without a new file in its place."""
    signed = notes(4)
    sink.deliver(messages(signed[:1]))
    path.rename(path.with_suffix(".1"))
    sink.deliver(messages(signed[1:2]))
    path.rename(path.with_suffix(".2"))
    path.touch(0o600)
    sink.deliver(messages(signed[2:3]))
    path.unlink()
    sink.deliver(messages(signed[3:]))
    assert lines(path.with_suffix(".1")) == signed[:1]
    assert lines(path.with_suffix(".2")) == signed[1:2]
    assert lines(path) == signed[3:]
    assert path.stat().st_mode & 0o137 == 0


def test_rotation_leaks_no_descriptors(sink: JsonlSink, path: Path) -> None:
    sink.deliver(messages(notes(1)))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a path per descriptor would be no shorter)
    for _ in range(50):
        path.unlink()
        sink.deliver(messages(notes(1)))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 (as above)


def test_a_truncated_file_is_appended_to(sink: JsonlSink, path: Path) -> None:
    """As logrotate's copytruncate does it."""
    sink.deliver(messages(notes(2)))
    os.truncate(path, 0)
    sink.deliver(messages(notes(1)))
    assert lines(path) == notes(1)


def test_a_folder_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "events.jsonl"
    path.parent.mkdir()
    sink = JsonlSink(path)
    sink.deliver(messages(notes(1)))
    path.unlink()
    path.parent.rmdir()
    for _ in range(3):
        with pytest.raises(SinkDown, match="ENOENT"):
            sink.deliver(messages(notes(1)))
    path.parent.mkdir()
    assert sink.deliver(messages(notes(1))) == [DELIVERED]
    assert lines(path) == notes(1)
    sink.close()


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: the write that crosses it is cut short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [1, 100, 1_000, 2_345])
def test_a_file_that_cannot_grow_keeps_whole_lines(sink: JsonlSink, path: Path, room: int) -> None:
    """What was begun of a batch is taken back, so that the batch can be repeated."""
    signed = notes(12)
    sink.deliver(messages(signed[:2]))
    size = path.stat().st_size
    with file_size_limit(size + room):
        for _ in range(2):
            with pytest.raises(SinkDown, match="EFBIG") as down:
                sink.deliver(messages(signed[2:]))
            assert down.value.verdicts == ()
            assert path.stat().st_size == size
    assert lines(path) == signed[:2]
    assert sink.deliver(messages(signed[2:])) == [DELIVERED] * 10
    assert lines(path) == signed


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 kB."""
    with tempfile.TemporaryDirectory(prefix="event-service-disk-") as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("file systems cannot be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """Whole lines only, the error by its name; when there is room again everything goes on."""
    path = small_disk / "events.jsonl"
    sink = JsonlSink(path)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(50_000))
    signed = notes(60)
    sink.deliver(messages(signed[:5]))
    with pytest.raises(SinkDown, match="ENOSPC") as down:
        sink.deliver(messages(signed[5:]))
    assert str(path) in down.value.detail
    assert lines(path) == signed[:5]
    ballast.unlink()
    assert sink.deliver(messages(signed[5:])) == [DELIVERED] * 55
    assert lines(path) == signed
    sink.close()


def test_a_device_that_is_full() -> None:
    """The error is the device's own, although nothing of it can be taken back."""
    sink = JsonlSink(Path("/dev/full"))
    with pytest.raises(SinkDown, match="ENOSPC"):
        sink.deliver(messages(notes(2)))
    sink.close()


@pytest.mark.parametrize("cut", [1, 3, 7, 100, -1])
def test_a_line_that_its_writer_died_over_is_taken_back(path: Path, cut: int) -> None:
    """Its event was never settled and comes again."""
    whole, broken = messages(notes(2))
    path.write_bytes(whole.payload + b"\n" + broken.payload[:cut])
    sink = JsonlSink(path)
    sink.deliver([broken])
    sink.close()
    assert lines(path) == notes(2)


def test_a_lone_unfinished_line_is_taken_back(path: Path) -> None:
    path.write_bytes(message(notes(1)[0]).payload[:50])
    sink = JsonlSink(path)
    sink.deliver(messages(notes(1)))
    sink.close()
    assert lines(path) == notes(1)


def test_somebody_elses_last_line_is_not_taken_back(path: Path) -> None:
    path.write_bytes(b"# a remark without an end of line")
    sink = JsonlSink(path)
    sink.deliver(messages(notes(1)))
    sink.close()
    assert path.read_bytes() == b"# a remark without an end of line\n" + message(notes(1)[0]).payload + b"\n"


WRITER = """
import sys
from pathlib import Path
from pipeline.sinks.base import Message
from pipeline.sinks.jsonl import JsonlSink
sink = JsonlSink(Path(sys.argv[1]))
payload = Path(sys.argv[2]).read_bytes()
print("ready", flush=True)
while True:
    sink.deliver([Message(bytes(32), payload, 0)] * 20)
"""


def test_writers_that_are_killed_leave_no_half_line_behind(path: Path, tmp_path: Path) -> None:
    """At any moment; the next one to write puts it right."""
    payload = tmp_path / "payload"
    event = notes(1, size=400_000)[0]
    payload.write_bytes(message(event).payload)
    for number in range(6):
        child = Child([sys.executable, "-c", WRITER, str(path), str(payload)])
        child.wait_line("ready", PATIENCE_S)
        floor = path.stat().st_size if path.exists() else 0
        wait_until(lambda floor=floor, number=number: path.stat().st_size > floor + 3_000_000 * number)  # type: ignore[misc]
        child.kill()
        child.close()
        sink = JsonlSink(path)
        sink.deliver(messages(notes(1)))
        sink.close()
        found = read_events(path)
        assert found.count(notes(1)[0]) == 1
        assert set(found) == {notes(1)[0], event}
        path.unlink()


def test_two_forwarders_at_once(path: Path) -> None:
    """Lines are never mixed."""
    signed = [notes(40, first=1000 * number, size=20_000) for number in range(3)]

    def write(own: list[SignedEvent]) -> None:
        sink = JsonlSink(path)
        for start in range(0, 40, 4):
            sink.deliver(messages(own[start : start + 4]))
        sink.close()

    threads = [threading.Thread(target=write, args=(own,)) for own in signed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    found = lines(path)
    assert sorted(event.id for event in found) == sorted(event.id for own in signed for event in own)
    for own in signed:
        assert [event for event in found if event in own] == own


def test_a_failure_of_one_forwarder_spares_the_lines_of_the_other(path: Path) -> None:
    """What is taken back is the failed batch only."""
    first, second = JsonlSink(path), JsonlSink(path)
    first.deliver(messages(notes(3)))
    second.deliver(messages(notes(3, first=3)))
    with file_size_limit(path.stat().st_size + 500), pytest.raises(SinkDown):
        first.deliver(messages(notes(3, first=6)))
    assert lines(path) == notes(6)
    first.close()
    second.close()


def test_the_whole_outbox_reaches_the_file(box: Outbox, path: Path, sink: JsonlSink) -> None:
    signed = notes(1200)
    box.put(signed)
    with Loop(box, sink):
        box.wait_empty()
    assert lines(path) == signed


STDOUT = """
import sys
from pipeline.sinks.base import DELIVERED, Message, SinkDown
from pipeline.sinks.jsonl import StdoutSink
import pipeline.sinks.jsonl as jsonl
sink = StdoutSink()
batch = [Message(bytes(32), bytes(sys.argv[1], "ascii") * 50, 0)] * int(sys.argv[2])
for line in sys.stdin:
    jsonl._STDOUT_PATIENCE_S = float(line)
    try:
        verdicts = sink.deliver(batch)
        print("delivered", verdicts.count(DELIVERED), file=sys.stderr, flush=True)
    except SinkDown as down:
        print(down.reason, len(down.verdicts), file=sys.stderr, flush=True)
"""


class Printing:
    """A process that prints a batch on each line it is sent, and says on standard error how it went."""

    def __init__(self, letter: str, count: int, *, blocking: bool = True) -> None:
        self.out, theirs = os.pipe()
        os.set_blocking(theirs, blocking)
        self.process = subprocess.Popen(
            [sys.executable, "-c", STDOUT, letter, str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)

    def __enter__(self) -> "Printing":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()
        self.stop_reading()

    def go(self, patience_s: float = PATIENCE_S) -> list[str]:
        """Let it print a batch, waiting so long for its reader; what became of it."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.write(b"%f\n" % patience_s)
        self.process.stdin.flush()
        return self.process.stderr.readline().decode().split()

    def stop_reading(self) -> None:
        if self.out >= 0:
            os.close(self.out)
            self.out = -1

    def read_lines(self, count: int) -> bytes:
        """Read until there are so many lines."""
        got = b""
        while got.count(b"\n") < count:
            got += os.read(self.out, 65_536)
        return got


def test_standard_output_gets_whole_lines() -> None:
    with Printing("x", 3) as printing:
        assert printing.go() == ["delivered", "3"]
        assert printing.read_lines(3) == (b"x" * 50 + b"\n") * 3


def test_a_reader_of_standard_output_that_goes_away() -> None:
    with Printing("x", 3) as printing:
        assert printing.go() == ["delivered", "3"]
        printing.stop_reading()
        for _ in range(2):
            assert printing.go()[0] == "EPIPE"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_of_standard_output_that_stops_reading(blocking: bool) -> None:
    """The thread comes back; what was printed is told, and no line is left half when reading goes on.

    Whether the pipe blocks is not ours to choose: a shell or ssh may have made it so.
    """
    with Printing("y", 4000, blocking=blocking) as printing:
        reason, printed = printing.go(0.2)
        assert reason == "ETIMEDOUT"
        assert 1000 < int(printed) < 1400
        assert printing.go(0.2) == ["ETIMEDOUT", "0"]
        got: list[bytes] = []
        # The line that was begun comes whole, and then the batch.
        reader = threading.Thread(target=lambda: got.append(printing.read_lines(int(printed) + 1 + 4000)))
        reader.start()
        assert printing.go() == ["delivered", "4000"]
        reader.join(PATIENCE_S)
        assert got == [(b"y" * 50 + b"\n") * (int(printed) + 1 + 4000)]


def test_standard_output_is_nobodys_to_close() -> None:
    sink = StdoutSink()
    sink.keep_alive()
    sink.close()
    os.fstat(1)
