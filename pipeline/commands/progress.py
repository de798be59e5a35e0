"""How far long work has come: a bar on a terminal, a line every few seconds otherwise; on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from pipeline.process.clock import Clock

_EVERY_S: Final = 5.0


class Progress:
    """Progress of steps of known length, one after the other."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @contextmanager
    def step(self, label: str, length: int) -> Iterator[Callable[[int], None]]:
        """One step; the function that it gives is called with how much more is done."""
        if length and sys.stderr.isatty():
            with click.progressbar(length=length, label=f"{label:24}", file=sys.stderr) as bar:
                yield bar.update
        else:
            yield from self._lines(label, length)

    def _lines(self, label: str, length: int) -> Iterator[Callable[[int], None]]:
        done = 0
        said_at = self._clock.monotonic()

        def advance(count: int) -> None:
            nonlocal done, said_at
            done += count
            if self._clock.monotonic() - said_at >= _EVERY_S:
                said_at = self._clock.monotonic()
                click.echo(f"{label}: {done:,} of {length:,}", err=True)

        yield advance
        click.echo(f"{label}: {done:,} done", err=True)
