// The relay of the npm package "relays", in memory: node relays.js ADDRESS PORT. NOSTR_DISABLE_SIG=true skips signatures.
'use strict';
const { createServer } = require('relays/server');

const [host, port] = process.argv.slice(2);
// Where a port is expected Node takes an address with it; without one it would listen on all of them.
createServer({ port: { host, port: Number(port) }, skipGun: true, log: false, nostr: { disableUpstream: true } });
