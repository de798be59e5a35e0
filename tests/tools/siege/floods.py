"""What hostile relays send: large, malformed or forged events, endless documents, text for terminals."""

import subprocess
import sys
from time import time

from tests.fakes.child import ROOT
from tests.tools.siege.attacks import attack
from tests.tools.siege.payloads import HOSTILE_TEXT
from tests.tools.siege.siege import DIAL_S, Siege

_COMMAND_S = 60.0


def _flood(siege: Siege, play: str, *, names: int = 3, mib: float = 256.0, mib_per_s: float = 0.0) -> None:
    """Let relays that a user named flood the service until the time is up or enough was sent."""
    with siege.hostile(play, names=names, mib=siege.size(1, 4) * mib / 4, mib_per_s=mib_per_s) as relays:
        siege.name_by_user(*relays.urls)
        is_dialled = relays.wait("dials", 1, DIAL_S)
        siege.require(is_dialled, "a relay that a user names is dialled")
        siege.begin()
        siege.wait()
        counts = relays.counts()
        siege.notes["hostile relays"] = f"{counts['dials']} dials, {counts['open']} open, {counts['mib']} MiB sent"


@attack("large-tags", "relays send valid events whose one tag has a megabyte", disk_mib=400)
def _large_tags(siege: Siege) -> None:
    _flood(siege, "large-tags")


@attack("tiny-tags", "relays send events of 4 MB of the smallest tags")
def _tiny_tags(siege: Siege) -> None:
    _flood(siege, "tiny-tags")


@attack("escapes", "relays send events of 4 MB of escapes")
def _escapes(siege: Siege) -> None:
    _flood(siege, "escapes")


@attack("profiles", "relays send valid profiles of a megabyte as fast as they are read", disk_mib=400)
def _profiles(siege: Siege) -> None:
    _flood(siege, "profiles")


@attack("oversize", "relays send frames of 5 to 80 MiB")
def _oversize(siege: Siege) -> None:
    _flood(siege, "oversize", mib=512.0)


@attack("forgeries", "a relay sends events under forged signatures as fast as they are read")
def _forgeries(siege: Siege) -> None:
    _flood(siege, "forgeries", names=1)


@attack("endless-document", "relays whose NIP-11 document has no end")
def _endless_document(siege: Siege) -> None:
    _flood(siege, "endless-document", mib=512.0)


@attack("slow-document", "relays whose NIP-11 document comes byte by byte")
def _slow_document(siege: Siege) -> None:
    _flood(siege, "slow-document")


@attack("hostile-text", "relays, events and registrations with text that a terminal or a browser would obey")
def _hostile_text(siege: Siege) -> None:
    event = siege.stranger().sign(HOSTILE_TEXT, kind=0, created_at=int(time()), tags=[("alt", HOSTILE_TEXT)])
    siege.world.tell([event])
    with (
        siege.hostile("hoarse", names=2) as hoarse,
        siege.hostile("hostile-texts", mib=siege.size(1, 4) / 4) as texts,
    ):
        siege.name_by_user(*hoarse.urls, *texts.urls)
        hostile = siege.stranger().registration(int(time()), [f"ws://{HOSTILE_TEXT}.example"])
        accepted, _ = siege.register(hostile, visitor=siege.visitor())
        siege.require(not accepted, "a relay that is no address registers nobody")
        hoarse.wait("dials", 1, DIAL_S)
        siege.begin()
        siege.wait()
        for command in (
            ("status",), ("relays", "list"), ("relays", "show", hoarse.urls[0]), ("users", "list"), ("dead", "list"),
            ("explain", event.id),
        ):  # fmt: skip
            said = _said(siege, *command)
            siege.require(_is_plain(said), f"`{' '.join(command[:2])}` says nothing that a terminal obeys")
        siege.require(_is_plain(siege.service.log_text()), "the log has nothing that a terminal obeys")
        path = _said(siege, "status", "--url").strip().partition(siege.service.url)[2]
        status, page = siege.service.get(path or "/", {"Accept": "text/html"})
        siege.require(status == 200 and "Dead letters" in page, f"the page opens with its token: {status}")
        siege.require(_is_plain(page) and "<script>alert" not in page, "the page has nothing that a browser obeys")


def _said(siege: Siege, *command: str) -> str:
    """What a command of the operator prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command],
        env=siege.service.env, cwd=ROOT, capture_output=True, timeout=_COMMAND_S, check=False,
    )  # fmt: skip
    return (ended.stdout + ended.stderr).decode(errors="replace")


def _is_plain(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)
