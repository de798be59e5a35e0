-- What the newest backup of home has of the stream: a home that is restored from it reads on from there.
ALTER TABLE hub.streams ADD COLUMN backed_up bigint NOT NULL DEFAULT 0;

-- When home's newest backup was made, by this database's clock (ms; 0: never), and up to which act of users it is.
CREATE TABLE hub.home_backup (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  at bigint NOT NULL,
  user_acts bigint NOT NULL
);
INSERT INTO hub.home_backup (at, user_acts) VALUES (0, 0);
