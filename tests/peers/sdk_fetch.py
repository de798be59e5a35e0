"""Fetches what the service would by nostr-sdk, one request a filter: sdk_fetch.py URL FILTERS SINCE.

FILTERS is a file with an array of filters; prints the ids, one a line.
"""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

_TIMEOUT = timedelta(seconds=60)


async def main() -> None:
    """Ask for each filter and print what comes."""
    import nostr_sdk

    url, path, since = sys.argv[1:]
    client = nostr_sdk.Client()
    await client.add_relay(nostr_sdk.RelayUrl.parse(url))
    await client.connect()
    for value in json.loads(Path(path).read_text()):
        wanted = nostr_sdk.Filter.from_json(json.dumps(value | {"since": int(since)}))
        for event in await client.fetch_events(nostr_sdk.ReqTarget.auto([wanted]), _TIMEOUT):
            print(event.id().to_hex())


if __name__ == "__main__":
    asyncio.run(main())
