-- The largest part that a host may say, compressed: thousands of relays need a tenth of it.
CREATE OR REPLACE FUNCTION hub.most_state_bytes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 4194304::bigint $$;

-- Keep what the calling host says of itself, each part in place of the one before.
CREATE OR REPLACE FUNCTION hub.report_state_v1(its_parts text[], its_bodies bytea[]) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
BEGIN
  IF cardinality(its_parts) > 16
    OR EXISTS (SELECT 1 FROM unnest(its_bodies) AS b (body) WHERE length(b.body) > most_state_bytes())
  THEN
    RAISE program_limit_exceeded USING MESSAGE = 'the state is larger than any that is kept';
  END IF;
  INSERT INTO states AS old (host, part, at, digest, body)
  SELECT mine.host, n.part, now_ms(), md5(n.body), n.body
    FROM (SELECT DISTINCT ON (part) part, body FROM unnest(its_parts, its_bodies) AS u (part, body)) n
  ON CONFLICT (host, part) DO UPDATE SET at = excluded.at, digest = excluded.digest, body = excluded.body;
  IF (SELECT count(*) FROM states WHERE states.host = mine.host) > 16 THEN
    RAISE program_limit_exceeded USING MESSAGE = 'a host has 16 parts at most';
  END IF;
END $$;
SELECT hub.permit('report_state_v1', 'edge');

-- The parts that differ from those whose digests home names, and how long ago (ms) each was said.
CREATE OR REPLACE FUNCTION hub.states_v1(its_hosts text[], its_parts text[], its_digests text[])
  RETURNS TABLE (host text, part text, said_ago bigint, digest text, body bytea)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT s.host, s.part, now_ms() - s.at, s.digest, s.body FROM states s
  LEFT JOIN unnest(its_hosts, its_parts, its_digests) AS k (host, part, digest)
    ON k.host = s.host AND k.part = s.part
 WHERE s.digest IS DISTINCT FROM k.digest ORDER BY s.host, s.part
$$;
SELECT hub.permit('states_v1', 'home');

-- Forget how far these relays are with a job.
CREATE OR REPLACE FUNCTION hub.forget_backfill_cursors(its_job bigint, its_relays text[]) RETURNS void
  LANGUAGE sql SET search_path = hub, pg_temp
  AS $$
DELETE FROM cursors WHERE relay = ANY (its_relays)
   AND query >= 'backfill:' || its_job || ':' AND query < 'backfill:' || its_job || ';'
$$;

-- Forget all jobs but these.
CREATE OR REPLACE FUNCTION hub.keep_backfills_v1(its_jobs bigint[]) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  PERFORM forget_backfill_cursors(r.job, array_agg(r.relay)) FROM backfill_relays r
    WHERE r.job <> ALL (its_jobs) GROUP BY r.job;
  DELETE FROM backfills WHERE job <> ALL (its_jobs);
END $$;
SELECT hub.permit('keep_backfills_v1', 'home');

-- Note an open job and the relays that are not over with it.
CREATE OR REPLACE FUNCTION hub.put_backfill_v1(
  its_job bigint, its_since bigint, its_until bigint, its_authors bytea, its_created_at bigint, its_relays text[]
) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  IF EXISTS (SELECT 1 FROM backfills WHERE job = its_job AND created_at <> its_created_at) THEN
    PERFORM keep_backfills_v1(ARRAY(SELECT job FROM backfills WHERE job <> its_job));
  END IF;
  INSERT INTO backfills (job, since, until, authors, created_at)
  VALUES (its_job, its_since, its_until, its_authors, its_created_at) ON CONFLICT (job) DO NOTHING;
  PERFORM forget_backfill_cursors(its_job, ARRAY(
    SELECT relay FROM backfill_relays WHERE job = its_job AND relay <> ALL (its_relays)
  ));
  DELETE FROM backfill_relays WHERE job = its_job AND relay <> ALL (its_relays);
  INSERT INTO backfill_relays (job, relay) SELECT DISTINCT its_job, r FROM unnest(its_relays) AS n (r)
  ON CONFLICT (job, relay) DO NOTHING;
END $$;
SELECT hub.permit('put_backfill_v1', 'home');

-- The open jobs of relays that the calling host holds.
CREATE OR REPLACE FUNCTION hub.my_backfills_v1() RETURNS TABLE (job bigint, created_at bigint, relays text[])
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
BEGIN
  RETURN QUERY SELECT b.job, b.created_at, array_agg(r.relay ORDER BY r.relay)
    FROM backfills b JOIN backfill_relays br ON br.job = b.job JOIN relays r ON r.relay = br.relay
    JOIN shares s ON s.host_key = r.host_key
   WHERE s.holder = mine.host AND r.orders IS NOT NULL GROUP BY b.job, b.created_at;
END $$;
SELECT hub.permit('my_backfills_v1', 'edge');

-- What these jobs are about.
CREATE OR REPLACE FUNCTION hub.backfills_v1(its_jobs bigint[])
  RETURNS TABLE (job bigint, since bigint, until bigint, authors bytea, created_at bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT b.job, b.since, b.until, b.authors, b.created_at FROM backfills b WHERE b.job = ANY (its_jobs) $$;
SELECT hub.permit('backfills_v1', 'edge', 'home');

-- Let a host ask relays again that it could not use: those of one host key, or with NULL all. Return how many there
-- were.
CREATE OR REPLACE FUNCTION hub.clear_unfit_v1(its_host text, key text) RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  cleared bigint;
BEGIN
  PERFORM lock_shares();
  DELETE FROM unfit u WHERE u.host = its_host AND (key IS NULL OR u.host_key = key);
  GET DIAGNOSTICS cleared = ROW_COUNT;
  RETURN cleared;
END $$;
SELECT hub.permit('clear_unfit_v1', 'home');
