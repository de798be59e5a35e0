// Fetches what the service would by nostr-fetch: node nostr_fetch.js URL FILTERS SINCE. FILTERS is a file with an array of
// filters; prints the ids as they come, one a line.
'use strict';
const fs = require('node:fs');
const { NostrFetcher } = require('nostr-fetch');
const WebSocket = require('ws');

const [url, path, since] = process.argv.slice(2);

async function main() {
  const fetcher = NostrFetcher.init({ webSocketConstructor: WebSocket });
  for (const filter of JSON.parse(fs.readFileSync(path, 'utf8'))) {
    for await (const event of fetcher.allEventsIterator([url], filter, { since: Number(since) })) {
      console.log(event.id);
    }
  }
  fetcher.shutdown();
}

main();
