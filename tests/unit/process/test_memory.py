"""Memory that is given back."""

import ctypes
from types import SimpleNamespace

import pytest

from pipeline.process.memory import give_back


def test_freed_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=kept.append))
    give_back()
    assert kept == [0]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    give_back()


def test_the_c_library_of_this_machine_can_be_asked() -> None:
    give_back()
