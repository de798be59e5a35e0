-- Up to which of its own changes of relay lists home has handed them over; `lists` counts these hand-overs.
ALTER TABLE hub.plan ADD COLUMN home_lists bigint NOT NULL DEFAULT 0;
