-- Hosts that crawl. `login`: the role by which one connects, which alone says who calls a function.
CREATE TABLE hub.hosts (
  host text PRIMARY KEY CHECK (host ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
  login name NOT NULL UNIQUE,
  added_at bigint NOT NULL,
  is_draining boolean NOT NULL DEFAULT false,
  version text NOT NULL DEFAULT '',
  -- By the database's clock when the host last called, and by how much its own clock was ahead then (ms).
  seen_at bigint NOT NULL DEFAULT 0,
  clock_skew bigint NOT NULL DEFAULT 0,
  -- Events and parcels that waited on the host then.
  backlog_events bigint NOT NULL DEFAULT 0,
  backlog_parcels bigint NOT NULL DEFAULT 0,
  -- Rows that the host added to `hub.cursors` and `hub.limits`, and how many were refused.
  noted bigint NOT NULL DEFAULT 0,
  refused_notes bigint NOT NULL DEFAULT 0
);

-- Each parcel of a stream has the number after the one before. A host whose disk is lost begins a new stream; its old
-- one is closed then: a copy of the old disk may still hand over what it has, but crawls no more. Closed ones stay
-- known when their parcels are gone, so that none is taken for a new one.
CREATE TABLE hub.streams (
  stream text PRIMARY KEY CHECK (stream ~ '^[0-9a-f]{32}$'),
  host text NOT NULL REFERENCES hub.hosts,
  opened_at bigint NOT NULL,
  is_open boolean NOT NULL DEFAULT true,
  -- The newest parcel that was handed over, and the newest that home has committed.
  last bigint NOT NULL DEFAULT 0,
  taken bigint NOT NULL DEFAULT 0,
  -- Of the newest parcel and, by way of those before it, of all; see `hub.chained`.
  last_digest bytea NOT NULL DEFAULT '',
  -- Bytes of all parcels up to these two; see `hub.weight`.
  last_bytes bigint NOT NULL DEFAULT 0,
  taken_bytes bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX streams_open ON hub.streams (host) WHERE is_open;
CREATE INDEX streams_host ON hub.streams (host, opened_at);

CREATE TABLE hub.parcels (
  stream text NOT NULL REFERENCES hub.streams,
  number bigint NOT NULL,
  at bigint NOT NULL,
  -- Of this parcel and all before it in the stream.
  bytes_before_next bigint NOT NULL,
  -- The stream's digest before this parcel, and with it.
  before bytea NOT NULL,
  digest bytea NOT NULL,
  notes bytea NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (stream, number)
);
-- Bodies are read once and hardly get smaller.
ALTER TABLE hub.parcels ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN notes SET STORAGE EXTERNAL;

-- How far the answer of each relay to each query is complete (s); never ahead of the parcels that it covers.
CREATE TABLE hub.cursors (
  relay text NOT NULL,
  query text NOT NULL,
  complete_until bigint NOT NULL,
  generation bigint NOT NULL,
  PRIMARY KEY (relay, query)
);

-- What was learned of a relay's limits, as JSON of the host that learned it.
CREATE TABLE hub.limits (relay text PRIMARY KEY, limits text NOT NULL);

-- What there is once: `home`, and who has it. `epoch` grows with each new holder.
CREATE TABLE hub.roles (
  role text PRIMARY KEY,
  holder text NOT NULL,
  epoch bigint NOT NULL,
  until bigint NOT NULL
);
