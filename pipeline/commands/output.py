"""How commands speak: lines without anything that a terminal would obey, and numbers with the right word."""

import click

from pipeline.printable import printable


def say(text: str, *, err: bool = False) -> None:
    """Print `text`, parts of which a stranger may have written; its own line ends stay line ends."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def number_of(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
