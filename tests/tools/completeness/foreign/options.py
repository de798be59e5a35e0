"""The options of `bin/completeness` for foreign relays."""

import argparse
from dataclasses import replace

from tests.tools.completeness.foreign.registry import RELAYS
from tests.tools.completeness.foreign.run import Plan
from tests.tools.completeness.foreign.shape import Order, Shape
from tests.tools.completeness.foreign.subject import RelayCommand
from tests.tools.completeness.foreign.trial import PHASES, Pace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which relays are tried, on which world, and how."""
    group = parser.add_argument_group(
        "foreign relays",
        "--relay NAME='COMMAND … {address} {port} {folder}' tries any relay: it is started in a folder of its own, "
        "given the world by EVENT, asked by id which of it it holds, and crawled. {root} is this checkout, {python} "
        "its Python.",
    )
    shape, pace = Shape(), Pace()
    group.add_argument("--relay", action="append", default=[], type=_relay, metavar="NAME=COMMAND", help="repeatable")
    group.add_argument(
        "--peers", default="", metavar="A,B", help=f"of --parts foreign only these: {', '.join(r.name for r in RELAYS)}"
    )
    group.add_argument("--together", action="store_true", help="one service on all of them; default: each by itself")
    group.add_argument("--events", type=int, default=shape.events, help="events held at the start (%(default)s)")
    group.add_argument("--users", type=int, default=shape.users, help="registered users (%(default)s)")
    group.add_argument("--followees", type=int, default=shape.followees, help="authors they follow (%(default)s)")
    group.add_argument("--strangers", type=int, default=shape.strangers, help="other authors (%(default)s)")
    group.add_argument("--hours", type=float, default=shape.span_s / 3600, help="age of the oldest event (%(default)s)")
    group.add_argument(
        "--mention-hours", type=float, default=shape.mentions_s / 3600, help="age of the oldest mention (%(default)s)"
    )
    group.add_argument("--dense", type=int, default=shape.dense, help="notes of one second (%(default)s)")
    group.add_argument("--dense-author", type=int, default=0, help="notes of one second and author (%(default)s)")
    group.add_argument(
        "--order", type=Order, choices=list(Order), default=shape.order, help="in which events are given"
    )
    group.add_argument("--rate", type=float, default=pace.rate, help="live events a second (%(default)s)")
    group.add_argument("--stream", type=float, default=pace.stream_s, metavar="S", help="length of a live stream")
    group.add_argument(
        "--patience", type=float, default=pace.patience_s, metavar="S", help="wait without news, at most"
    )
    group.add_argument("--resweep", type=int, default=pace.resweep_s, metavar="S", help="looks for late arrivals every")
    group.add_argument(
        "--absence", action="append", default=[], type=float, metavar="S",
        help="kill the relays and keep the service from them for so long, repeatable",
    )  # fmt: skip
    group.add_argument(
        "--quiet", type=float, default=0.0, metavar="S", help="publish nothing for so long, then one event a second"
    )
    group.add_argument("--delay-ms", type=float, default=0.0, help="added to each round trip")
    group.add_argument("--phases", default=",".join(PHASES), metavar="A,B", help="of: %(default)s")
    group.add_argument("--beside", action="store_true", help="let nostr-fetch and nostr-sdk ask the same relays first")
    group.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="setting of the service, repeatable"
    )


def plan_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    """Return what the options ask for; a mistake in them ends the program."""
    phases = [name.strip() for name in options.phases.split(",")]
    if unknown := set(phases) - set(PHASES):
        parser.error(f"no such phase: {', '.join(sorted(unknown))}")
    shape = replace(
        Shape(),
        events=options.events,
        users=options.users,
        followees=options.followees,
        strangers=options.strangers,
        span_s=int(options.hours * 3600),
        mentions_s=int(options.mention_hours * 3600),
        dense=options.dense,
        dense_author=options.dense_author,
        order=options.order,
    )
    pace = Pace(
        options.rate, options.stream, options.timeout, options.patience, options.resweep, tuple(options.absence),
        options.quiet,
    )  # fmt: skip
    settings = dict(each.split("=", 1) for each in options.setting)
    return Plan(shape, pace, phases, options.delay_ms / 1000, options.beside, settings)


def _relay(text: str) -> RelayCommand:
    name, equals, command = text.partition("=")
    if not equals or not command:
        raise argparse.ArgumentTypeError("must be NAME=COMMAND")
    return RelayCommand(name, command)
