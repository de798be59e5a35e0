-- What functions take turns by: rows that they lock. Every login may take advisory locks, and so could hold up all hosts.
CREATE TABLE hub.locks (name text PRIMARY KEY);
INSERT INTO hub.locks VALUES ('home'), ('shares');
