"""The answering side of negentropy (NIP-77), for relays that are played; few items are listed, more fingerprinted."""

from pipeline.nostr.negentropy import ItemSet
from pipeline.nostr.negentropy_wire import START, Mode, Reader, Writer

_FANOUT = 4
_FEW = 8


def answer(items: ItemSet, message: bytes) -> bytes:
    """What a relay that holds `items` says to a client's message."""
    reader, writer = Reader(message), Writer()
    lower, lower_bound, skipping = 0, START, False
    while not reader.at_end:
        bound, mode = reader.range_head(lower_bound)
        upper = items.index(bound, lower)
        ours = items.ids(lower, upper)
        if mode is Mode.SKIP or (mode is Mode.FINGERPRINT and reader.fingerprint() == items.fingerprint(lower, upper)):
            skipping = True
        else:
            if mode is Mode.ID_LIST:
                reader.ids()
            if skipping:
                writer.skip(lower_bound)
            skipping = False
            if mode is Mode.ID_LIST or len(ours) < _FEW:
                writer.id_list(bound, ours)
            else:
                _split(items, writer, lower, upper, bound)
        lower, lower_bound = upper, bound
    return bytes(writer.data)


def _split(items: ItemSet, writer: Writer, lower: int, upper: int, bound: bytes) -> None:
    step = -(-(upper - lower) // _FANOUT)
    for start in range(lower, upper, step):
        end = min(start + step, upper)
        writer.fingerprint(bound if end == upper else items.key(end), items.fingerprint(start, end))
