"""The project's documents: their links and paths lead somewhere, and nothing that is committed cites what is not."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "pipeline/docs").rglob("*.md"), ROOT / "tests/tools/README.md")
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:bin|pipeline|stages|tests)/[\w./-]+)(?:::\w+)?`")
_CODE_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_CITED = re.compile(r"(?<![\w/.-])([\w-]+\.md)\b")


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    found = re.findall(r"^#+ (.*)$", _CODE_BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_there_are_documents_to_look_at() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pipeline/docs/architecture.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    wrong = []
    for link in _LINK.findall(_CODE_BLOCK.sub("", (ROOT / document).read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        if not target.exists() or (anchor and anchor not in headings(target.read_text())):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_that_a_document_names_exist(document: str) -> None:
    named = set(_PATH.findall((ROOT / document).read_text()))
    named -= {"stages/NAME.py"}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_document_is_reached_from_the_readme() -> None:
    reached, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        document = todo.pop()
        if document not in reached:
            reached.add(document)
            links = (link.partition("#")[0] for link in _LINK.findall(document.read_text()))
            todo += [(document.parent / link).resolve() for link in links if link.endswith(".md") and ":" not in link]
    assert {path for path in DOCUMENTS if ROOT / path not in reached} == set()


@cache
def tracked() -> tuple[Path, ...]:
    """All files of the repository that hold text."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file())


def test_code_cites_no_document_but_the_projects_own() -> None:
    names = {Path(document).name for document in DOCUMENTS}
    cited = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked()
        if path.suffix in (".py", ".sh", ".md", ".yaml", ".yml")
        for name in _CITED.findall(path.read_text())
        if name not in names
    }
    assert cited == set()


_PROSE = re.compile(r'"""(?:.*?)"""|#[^\n]*', re.DOTALL)
_MARKED = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:\w+/)*\w+\.py")
_CLASS = re.compile(r"_?(?:[A-Z][a-z0-9]+){2,}")
ELSEWHERE = {
    "PubsubMessage", "PublishResponse", "TimeoutStopSec",
    "stages/NAME.py",
}  # fmt: skip
"""Of Pub/Sub and systemd; a placeholder."""


def test_code_and_documents_name_files_and_classes_that_exist() -> None:
    """Whoever renames one finds here who speaks of it."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in tracked() if path.suffix in (".py", ".md")}
    sources = [name for name in texts if name.endswith(".py")]
    files = {name[at:] for name in sources for at in (0, *(found.end() for found in re.finditer("/", name)))}
    code = (_PROSE.sub("", texts[name]) for name in sources)
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "pipeline/deploy/alerts.yml").read_text())
    classes = ELSEWHERE.union(alerts, *(re.findall(r"\b_?[A-Z]\w+", each) for each in code))
    wrong: set[str] = set()
    for name, text in texts.items():
        for prose in _PROSE.findall(text) if name.endswith(".py") else [text]:
            for marked in _MARKED.findall(prose):
                word = marked.partition("(")[0].partition(".")[0]
                if _FILE.fullmatch(marked):
                    if marked not in files | ELSEWHERE:
                        wrong.add(f"{name}: {marked}")
                elif _CLASS.fullmatch(word) and word not in classes:
                    wrong.add(f"{name}: {marked}")
    assert wrong == set()
