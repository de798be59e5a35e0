-- `holder`: id of the database that is home. `place`: where it lies, as its host names it. `since`: when it became home.
ALTER TABLE hub.roles ADD COLUMN place text NOT NULL DEFAULT '', ADD COLUMN since bigint NOT NULL DEFAULT 0;
DELETE FROM hub.roles;
