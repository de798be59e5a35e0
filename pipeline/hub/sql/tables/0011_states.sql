-- What each crawling host last said of itself, by part: compressed JSON that only home reads. A part replaces the one
-- before, so that saying it again changes nothing.
CREATE TABLE hub.states (
  host text NOT NULL REFERENCES hub.hosts,
  part text NOT NULL CHECK (part ~ '^[a-z]{1,16}$'),
  at bigint NOT NULL,
  digest text NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (host, part)
);
-- It is compressed already.
ALTER TABLE hub.states ALTER COLUMN body SET STORAGE EXTERNAL;

-- Backfill jobs that are open at home, and the relays that are not over with them. `created_at` is home's time (ms) of
-- the order: a home that was restored may give a number again.
CREATE TABLE hub.backfills (
  job bigint PRIMARY KEY,
  since bigint NOT NULL,
  until bigint NOT NULL,
  authors bytea NOT NULL,
  created_at bigint NOT NULL
);
CREATE TABLE hub.backfill_relays (
  job bigint NOT NULL REFERENCES hub.backfills ON DELETE CASCADE,
  relay text NOT NULL,
  PRIMARY KEY (job, relay)
);
