"""The relays of one crawler process: threads, sockets and the inbox. What to ask of one relay is decided in `sync`.

| module | what it does |
|---|---|
| `relay_pool` | dials relays when their time comes, and takes note of how each connection ends |
| `selection`, `ranking`, `crowding`, `novelty`, `crew` | which relays are dialled, and by which process |
| `assignment` | lets the pool follow what the store knows of relays |
| `reconnect`, `lost_relays`, `dial_queue`, `dialler` | when a relay is dialled, and how |
| `plan_turns`, `last_tier_turns` | which connections follow a new plan next, and a crowd's part of it |
| `reactor` | the one thread that serves all open connections |
| `connection`, `outcomes` | between one relay's socket, its session and its `RelaySync` |
| `flow_control` | how much of one relay may be on its way; backpressure |
| `ingester` | drops what is unwanted or seen, verifies, appends to the inbox |
| `relay_status`, `relay_metrics`, `crawl_report` | what is written down and counted of one relay, and of all |
| `stored_item_sets` | what is stored, to reconcile with (NIP-77) |
"""
