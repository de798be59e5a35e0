-- Whose events home wants, for hosts that crawl. `id`: of this plan; a host that followed another cannot follow it.
-- `generation`: up to which change of home's it is whole here, and `lists`: up to which change of relay lists.
CREATE TABLE hub.plan (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  id text NOT NULL,
  generation bigint NOT NULL,
  lists bigint NOT NULL
);
INSERT INTO hub.plan (id, generation, lists) VALUES (replace(gen_random_uuid()::text, '-', ''), 0, 0);

-- Subject 0: wanted authors, 1: registered users. Those who ceased to be wanted stay, for hosts that were away.
-- `since`: s, by the hour.
CREATE TABLE hub.plan_authors (
  subject smallint NOT NULL,
  public_key bytea NOT NULL CHECK (length(public_key) = 32),
  is_wanted boolean NOT NULL,
  since bigint NOT NULL,
  generation bigint NOT NULL,
  tier smallint NOT NULL,
  PRIMARY KEY (subject, public_key)
);
CREATE INDEX plan_authors_generation ON hub.plan_authors (subject, generation, public_key);

-- Which relays the newest list (NIP-65) of a wanted author names, for writing and for reading: addresses, a space
-- between. `change`: home's number of it.
CREATE TABLE hub.plan_lists (
  public_key bytea PRIMARY KEY CHECK (length(public_key) = 32),
  writes text NOT NULL,
  reads text NOT NULL,
  change bigint NOT NULL
);
CREATE INDEX plan_lists_change ON hub.plan_lists (change, public_key);
