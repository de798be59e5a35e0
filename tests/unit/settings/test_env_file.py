"""Environment files are read as systemd reads them, and refused where it would pass a mistake over."""

import random
from pathlib import Path

import pytest

from pipeline.settings.env_file import MAX_BYTES, InvalidEnvFile, format_env, parse_env, read_env_file
from tests.support.seeds import seeds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=1", "1"),
        ("A=1\r\n", "1"),
        ("  A = \t1 2  \n", "1 2"),
        ("A=", ""),
        ("A=b=c", "b=c"),
        ("A=1 # kept", "1 # kept"),
        ('A=" x "  ', " x "),
        ("A='it\\s \"'", 'it\\s "'),
        ('A="a\\"b\\\\c\\$d\\`e\\n"', 'a"b\\c$d`e\\n'),
        ('A="a" "b" c', "abc"),
        ('A=it\'s "x"', 'it\'s "x"'),
        ("A=a\\\nb", "ab"),
        ('A="a\\\nb\nc"', "ab\nc"),
        ("A=a\\ \\b", "a b"),
        ("A=$HOME ${HOME}", "$HOME ${HOME}"),
        ("# A=2\n; A=3\n\nA=4\n#", "4"),
        ("A=1\nA=2", "2"),
    ],
)
def test_a_value(text: str, value: str) -> None:
    assert parse_env(text) == {"A": value}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A=1\nsecret", "line 2 is no NAME=value"),
        ("1A=2", "line 1 is no NAME=value"),
        ("export A=1", "line 1 is no NAME=value"),
        ("=1", "line 1 is no NAME=value"),
        ('A=1\n\nB="open\nC=2\n', "line 3 has a quote that is not closed"),
    ],
)
def test_a_mistake_is_named_by_its_line_and_never_quoted(text: str, why: str) -> None:
    with pytest.raises(InvalidEnvFile) as error:
        parse_env(text)
    assert str(error.value) == why


@pytest.mark.parametrize("seed", seeds(3))
def test_what_is_written_is_read_back(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        length = rng.randrange(12)
        values = {f"N{n}": "".join(rng.choices("ab \t\n\\\"'`$#;=é", k=length)) for n in range(3)}
        assert parse_env(format_env(values)) == values


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "environment"
    with pytest.raises(InvalidEnvFile, match=f"cannot read {path}: No such file"):
        read_env_file(path)
    path.write_bytes(b"A=\xff")
    with pytest.raises(InvalidEnvFile, match=f"{path} is not UTF-8 text"):
        read_env_file(path)
    path.write_text("A=1\nB")
    with pytest.raises(InvalidEnvFile, match=f"{path}, line 2 is no NAME=value"):
        read_env_file(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidEnvFile, match=f"{path} has more than {MAX_BYTES} bytes"):
        read_env_file(path)
