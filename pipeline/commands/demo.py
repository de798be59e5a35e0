"""`event-service demo`: see it work, with nothing at hand."""

import asyncio
import sys

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65_535), default=8008, show_default=True, help="Of the status page.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after this time; default: at Ctrl-C.")
def demo(port: int, seconds: float | None) -> None:
    """Run the whole service on a small relay of its own, with people who post, follow and register.

    Everything lives in a temporary folder and on this machine only, and is gone at the end. Settings of the
    environment play no part.

    \b
    Examples:
      event-service demo
      event-service demo --seconds 30
    """
    from pipeline.demo.service import DemoFailed  # noqa: PLC0415  # the web server's modules are slow to import
    from pipeline.demo.show import Show  # noqa: PLC0415

    is_terminal = sys.stdout.isatty()
    show = Show(click.echo, lambda text: click.echo(f"\r{text}\x1b[K" if is_terminal else text, nl=not is_terminal))
    try:
        asyncio.run(show.run(port, seconds))
    except DemoFailed as error:
        click.echo(f"event-service: {error}", err=True)
        sys.exit(1)
