-- Ids of events that home took and did not want, for crawling hosts to forget: of each 32 bytes and its time (8, s). Numbers
-- grow with the clock, so that a database that went back uses none again.
CREATE TABLE hub.unwanted (number bigint PRIMARY KEY, packed bytea NOT NULL);
-- The newest number that is not kept: a host that has not come so far forgets all ids.
ALTER TABLE hub.plan ADD COLUMN unwanted_dropped bigint NOT NULL DEFAULT 0;
