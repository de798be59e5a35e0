-- Numbers of changes of what home wants crawled and of who holds what. Drawn under `hub.lock_shares`, so that they
-- become visible in their order.
CREATE SEQUENCE hub.share_versions;

-- What home wants crawled: a relay, the host that it lies on, and how it is to be crawled, as JSON of home's making.
-- Without orders it is wanted no more.
CREATE TABLE hub.relays (
  relay text PRIMARY KEY,
  host_key text NOT NULL,
  orders text,
  version bigint NOT NULL
);
CREATE INDEX relays_host_key ON hub.relays (host_key);
CREATE INDEX relays_version ON hub.relays (version);

-- Until when each crawling host holds its shares, by the database's clock; `version` changes with what it holds, or
-- is to hold. `renewal`: the number of its newest renewal, by which a host finds that this database went back.
CREATE TABLE hub.share_leases (
  host text PRIMARY KEY REFERENCES hub.hosts,
  until bigint NOT NULL,
  version bigint NOT NULL,
  renewal bigint NOT NULL
);

-- When a lease was renewed last, by the database's clock; see `hub.follow_clock`.
CREATE TABLE hub.share_clock (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), at bigint NOT NULL);
INSERT INTO hub.share_clock (at) VALUES (0);

-- Who may ask the relays of a host: its holder, as long as the holder's lease lasts. `wished`: who is to, as home says.
CREATE TABLE hub.shares (
  host_key text PRIMARY KEY,
  wished text REFERENCES hub.hosts (host),
  holder text REFERENCES hub.hosts (host),
  epoch bigint NOT NULL DEFAULT 0
);
CREATE INDEX shares_due ON hub.shares (wished) WHERE wished IS DISTINCT FROM holder;
CREATE INDEX shares_holder ON hub.shares (holder);

-- Relays that a host cannot use while others may: banned there, or out of reach.
CREATE TABLE hub.unfit (
  host text NOT NULL REFERENCES hub.hosts,
  host_key text NOT NULL,
  until bigint NOT NULL,
  times integer NOT NULL,
  reason text NOT NULL,
  PRIMARY KEY (host, host_key)
);
