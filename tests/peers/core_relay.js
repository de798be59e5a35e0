// @nostr-relay/core over SQLite with its validator, wired as its authors do: node core_relay.js ADDRESS PORT FOLDER
// [NAME=VALUE …]; `validator=off`, `defaultLimit=N` (its cap is ten times that), or an option of the validator.
'use strict';
const path = require('node:path');
const { WebSocketServer } = require('ws');
const { LogLevel } = require('@nostr-relay/common');
const { NostrRelay } = require('@nostr-relay/core');
const { EventRepositorySqlite } = require('@nostr-relay/event-repository-sqlite');
const { Validator } = require('@nostr-relay/validator');

const [host, port, folder, ...pairs] = process.argv.slice(2);
const { validator: validates = 'on', defaultLimit, ...bounds } = Object.fromEntries(pairs.map((pair) => pair.split('=')));

async function main() {
  const limits = defaultLimit === undefined ? undefined : { defaultLimit: Number(defaultLimit) };
  const repository = new EventRepositorySqlite(path.join(folder, 'events.db'), limits);
  await repository.init();
  const relay = new NostrRelay(repository, { logLevel: LogLevel.ERROR });
  const options = Object.fromEntries(Object.entries(bounds).map(([name, value]) => [name, Number(value)]));
  const validator = new Validator(options);
  const read = validates === 'off' ? (data) => JSON.parse(data.toString()) : (data) => validator.validateIncomingMessage(data);

  const server = new WebSocketServer({ host, port: Number(port) });
  server.on('connection', (socket, request) => {
    relay.handleConnection(socket, request.socket.remoteAddress);
    socket.on('message', async (data) => {
      try {
        await relay.handleMessage(socket, await read(data));
      } catch (error) {
        socket.send(JSON.stringify(['NOTICE', error.message]));
      }
    });
    socket.on('close', () => relay.handleDisconnect(socket));
    socket.on('error', () => relay.handleDisconnect(socket));
  });
}

main();
