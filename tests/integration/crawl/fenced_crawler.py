"""`stage crawler` behind a fence that is opened through its standard input: `HOST ASKED_AT LEASE_S` is a grant."""

import sys
import threading
from collections.abc import Callable, Iterable

from pipeline import cli
from pipeline.crawl.fence import Fence
from pipeline.crawl.relay_shares import LocalShares, RelayShares
from pipeline.process.clock import since_boot_s
from pipeline.process.stage import StageContext
from pipeline.store.database import Database
from stages import crawler


def _follow(fence: Fence, lines: Iterable[str]) -> None:
    for line in lines:
        host, asked_at, lease_s = line.split()
        fence.right = fence.right.granted({host}, float(asked_at), float(lease_s))


def _fenced(ctx: StageContext, open_here: Callable[[], Database]) -> RelayShares:
    fence = Fence(since_boot_s)
    threading.Thread(target=_follow, args=(fence, sys.stdin), daemon=True).start()
    return LocalShares(ctx, fence)


if __name__ == "__main__":
    crawler._shares = _fenced
    sys.argv = ["event-service", "stage", "crawler"]
    cli.main()
