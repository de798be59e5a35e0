"""What operators read has the words of the glossary, none of those it replaced; a class name stands for one thing."""

import ast
import json
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry

from pipeline.cli import main
from pipeline.process.metrics import Metrics
from pipeline.settings.schema import SETTINGS
from tests.support.command_lines import all_commands

ROOT = Path(__file__).resolve().parents[2]
# In no text for operators; the glossary has a word for each.
REPLACED = re.compile(
    r"\b(anew|meanwhile|hand(?:ed|s|ing)? on|giv(?:e|en|es|ing) up|whoever|nobody|somebody|in vain|unasked|by and by"
    r"|of late|lately|again and again|over and over|put aside|buried|bury|starts? anew|has not beaten|stands? ill"
    r"|killed and started)\b",
    re.IGNORECASE,
)
# In no line of the product, comments included.
GONE = re.compile(r"\b(by and by|of late|in vain|begun anew|hands on|ever and again)\b", re.IGNORECASE)
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "pipeline/docs").rglob("*.md"), ROOT / "tests/tools/README.md"))
DEPLOYED = sorted(path for path in (ROOT / "pipeline/deploy").iterdir() if path.suffix not in (".lock", ".json"))
# Words that a program of others says, or that a document must name in order to say that they are gone.
_PLACEHOLDER = re.compile(r"{[^{}]*}")
_QUOTED = re.compile(r"`[^`\n]*`")


def offences(text: str, words: re.Pattern[str] = REPLACED) -> list[str]:
    """The replaced words in `text`, each with what stands around it."""
    return [text[max(0, found.start() - 40) : found.end() + 20] for found in words.finditer(text)]


@pytest.mark.parametrize("path", [*DOCUMENTS, *DEPLOYED], ids=lambda path: path.name)
def test_document_uses_words_of_the_glossary(path: Path) -> None:
    assert offences(_QUOTED.sub("", path.read_text())) == []


def test_page_and_dashboard_use_words_of_the_glossary() -> None:
    page = (ROOT / "pipeline/server/page/page.html").read_text()
    shown = re.sub(r"{[{%].*?[%}]}|<[^>]*class=[^>]*>", "", page)
    dashboard = json.loads((ROOT / "pipeline/deploy/dashboard.json").read_text())
    texts = [panel.get(name, "") for panel in dashboard["panels"] for name in ("title", "description")]
    assert [each for text in (shown, *texts) for each in offences(text)] == []


def _help() -> Iterator[str]:
    for name, command in all_commands():
        yield from (f"{name}: {command.help}", f"{name}: {command.short_help or ''}")
        for option in command.params:
            if isinstance(option, click.Option):
                yield f"{name} {option.name}: {option.help or ''}"
    # Commands that are imported when they are named have a line of their own.
    yield main.get_help(click.Context(main))


def test_help_uses_words_of_the_glossary() -> None:
    assert [each for text in _help() for each in offences(text)] == []


def test_settings_and_metrics_use_words_of_the_glossary() -> None:
    registry: CollectorRegistry = Metrics().registry
    texts = [family.documentation for family in registry.collect()] + [setting.meaning for setting in SETTINGS]
    assert [each for text in texts for each in offences(text)] == []


@pytest.mark.parametrize(
    "name",
    [
        "status/service_diagnosis.py",
        "status/relay_diagnosis.py",
        "status/gaps.py",
        "status/explain.py",
        "process/liveness.py",
        "server/health.py",
    ],
)
def test_status_and_trace_use_words_of_the_glossary(name: str) -> None:
    tree = ast.parse((ROOT / "pipeline" / name).read_text())
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in bare]
    assert [each for text in texts if isinstance(text, str) for each in offences(text)] == []


CLEAN = sorted(
    path.name for path in (ROOT / "pipeline").iterdir()
    if path.name not in ("crawl", "relay") and (path.suffix == ".py" or (path / "__init__.py").exists())
)  # fmt: skip
"""Where comments, docstrings and texts have none of the replaced words; crawl and relay follow."""


def _words_of(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            # A key of JSON or of a query is a name, whatever it is called.
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
                yield _PLACEHOLDER.sub("", token.string)


@pytest.mark.parametrize("name", [*CLEAN, "../stages"])
def test_comments_and_texts_use_words_of_the_glossary(name: str) -> None:
    place = ROOT / "pipeline" / name
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    found = {path.name: [each for text in _words_of(path) for each in offences(text)] for path in paths}
    assert {path: each for path, each in found.items() if each} == {}


@cache
def sources() -> tuple[Path, ...]:
    return tuple(sorted((*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py"))))


def test_words_that_are_gone_stay_so() -> None:
    found = {path.name: offences(path.read_text(), GONE) for path in sources()}
    assert {name: each for name, each in found.items() if each} == {}


def test_class_name_stands_for_one_thing() -> None:
    places = defaultdict(set)
    for path in sources():
        for name in re.findall(r"(?m)^ *class (\w+)[(:]", path.read_text()):
            places[name].add(path.relative_to(ROOT).as_posix())
    assert len(places) > 400
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


MAX_TEST_NAME = 70
"""Subject, condition and result fit into it; a longer name is one that is not read."""


def test_name_of_a_test_has_at_most_70_characters() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    names = [name for path in files for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.M)]
    assert len(names) > 2_000
    assert [name for name in names if len(name) > MAX_TEST_NAME] == []


# A number that the code knows stands before a plural, unless it is a constant of the code that is never 1.
_COUNTED = re.compile(
    r" (addresses|authors|connections|events|followees|gaps|hosts|ids|jobs|keys|kinds|messages|names|parcels"
    r"|registrations|relays|requests|rows|sinks|stages|times|users|verdicts)\b"
)
_CONSTANT = re.compile(r"\b_?[A-Z][A-Z_]{2,}\b")


@pytest.mark.parametrize("path", sorted((*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py"))), ids=str)
def test_number_before_a_plural_may_not_be_one(path: Path) -> None:
    """`count_of` gives "1 relay"."""
    found = [
        f"line {text.lineno}: {ast.unparse(number.value)}"
        for text in ast.walk(ast.parse(path.read_text()))
        if isinstance(text, ast.JoinedStr)
        for number, after in pairwise(text.values)
        if isinstance(number, ast.FormattedValue) and isinstance(after, ast.Constant)
        if _COUNTED.match(str(after.value)) and not _CONSTANT.search(ast.unparse(number.value))
    ]
    assert found == []
