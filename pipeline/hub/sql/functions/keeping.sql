-- Note what home's newest backup has, which was made `age` ms ago. It never goes back: an older copy has less.
CREATE OR REPLACE FUNCTION hub.backed_up_v1(names text[], numbers bigint[], its_user_acts bigint, age bigint) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  UPDATE streams SET backed_up = greatest(streams.backed_up, least(k.number, streams.last))
    FROM unnest(names, numbers) AS k (stream, number) WHERE streams.stream = k.stream;
  UPDATE home_backup b SET user_acts = greatest(b.user_acts, its_user_acts), at = greatest(b.at, now_ms() - age);
END $$;
SELECT hub.permit('backed_up_v1', 'home');

-- Drop the oldest parcels that home has committed, `most` at a time: those older than `keep` ms that a backup has, those
-- older than `keep_unbacked` ms, and what is beyond `keep_bytes` of a stream. The newest hundred of an open stream stay
-- however old they seem: the clock may have been set. Acts of users that a backup has are dropped after `keep` ms.
-- Return how many parcels were dropped, and how many of them no backup has.
CREATE OR REPLACE FUNCTION hub.prune_log_v1(keep bigint, keep_unbacked bigint, keep_bytes bigint, most bigint)
  RETURNS TABLE (dropped bigint, unbacked bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  now_ bigint := now_ms();
  last_act bigint;
BEGIN
  PERFORM require_home();
  WITH gone AS (
    DELETE FROM user_acts a USING home_backup b WHERE a.number <= b.user_acts AND a.at < now_ - keep RETURNING a.number
  )
  SELECT max(number) INTO last_act FROM gone;
  UPDATE user_act_numbers n SET dropped = greatest(n.dropped, last_act) WHERE last_act IS NOT NULL;
  RETURN QUERY
  WITH doomed AS (
    SELECT old.stream, old.number, old.number > s.backed_up AS is_unbacked
      FROM parcels old JOIN streams s ON s.stream = old.stream
     WHERE old.number <= s.taken AND (
       (old.at < now_ - CASE WHEN old.number <= s.backed_up THEN keep ELSE keep_unbacked END
         AND (old.number <= s.last - 100 OR NOT s.is_open))
       OR old.bytes_before_next < s.last_bytes - keep_bytes)
     LIMIT most
  ), gone AS (
    DELETE FROM parcels p USING doomed d WHERE p.stream = d.stream AND p.number = d.number RETURNING d.is_unbacked
  )
  SELECT count(*), count(*) FILTER (WHERE is_unbacked) FROM gone;
END $$;
SELECT hub.permit('prune_log_v1', 'home');
