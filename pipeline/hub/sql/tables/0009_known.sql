-- Ids that home has saved, for the hosts that did not hand them over (`host` did): each as id (32 bytes), author (32),
-- time (8) and kind (4), one after the other.
CREATE TABLE hub.known (
  number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  host text NOT NULL,
  packed bytea NOT NULL
);
