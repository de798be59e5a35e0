-- Who registers and leaves, and what the operator decides of users, before it is acknowledged; kept until home has a backup
-- with it. `event`: what a user signed, as JSON. `at`: by home's clock (ms). No function of a crawling host reads it.
CREATE TABLE hub.user_acts (
  number bigint PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('register', 'leave', 'add', 'remove', 'block')),
  public_key bytea NOT NULL CHECK (length(public_key) = 32),
  at bigint NOT NULL,
  event bytea
);
CREATE INDEX user_acts_public_key ON hub.user_acts (public_key);

-- The number of the newest act; and of the newest that was dropped, so that a home with an older copy knows.
CREATE TABLE hub.user_act_numbers (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  last bigint NOT NULL,
  dropped bigint NOT NULL
);
INSERT INTO hub.user_act_numbers (last, dropped) VALUES (0, 0);
