-- Parcels beyond what home has of each stream, in the order of their numbers, of all streams by turns: at most so many
-- and so many bytes, but one in any case. A stream that home does not name begins at its first kept parcel.
CREATE OR REPLACE FUNCTION hub.parcels_v1(names text[], numbers bigint[], most bigint, most_bytes bigint)
  RETURNS TABLE (stream text, host text, number bigint, at bigint, body bytea)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
WITH known AS (SELECT * FROM unnest(names, numbers) AS k (stream, number)),
found AS (
  SELECT p.stream, s.host, p.number, p.at, p.body,
         row_number() OVER w AS place, sum(length(p.body)) OVER w - length(p.body) AS before
    FROM streams s
    LEFT JOIN known k ON k.stream = s.stream
    CROSS JOIN LATERAL (
      SELECT * FROM parcels WHERE parcels.stream = s.stream AND parcels.number > coalesce(k.number, 0)
       ORDER BY parcels.number LIMIT most
    ) p
   WHERE s.last > coalesce(k.number, 0)
  WINDOW w AS (ORDER BY p.number - coalesce(k.number, 0), p.stream)
)
SELECT stream, host, number, at, body FROM found
 WHERE place <= most AND before < most_bytes ORDER BY place
$$;
SELECT hub.permit('parcels_v1', 'home');

-- Note what home has committed of each stream.
CREATE OR REPLACE FUNCTION hub.taken_v1(names text[], numbers bigint[]) RETURNS void
  LANGUAGE sql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT require_home();
UPDATE streams SET taken = least(k.number, streams.last),
    taken_bytes = CASE WHEN k.number >= streams.last THEN streams.last_bytes ELSE coalesce(
      (SELECT p.bytes_before_next FROM parcels p WHERE p.stream = k.stream AND p.number = k.number), taken_bytes) END
  FROM unnest(names, numbers) AS k (stream, number)
 WHERE streams.stream = k.stream AND streams.taken IS DISTINCT FROM least(k.number, streams.last)
$$;
SELECT hub.permit('taken_v1', 'home');

-- Drop the oldest parcels that home has committed: those older than `keep` ms, and what is beyond `keep_bytes` of a
-- stream, `most` at a time; then closed streams of which nothing is left. Return how many parcels were dropped.
CREATE OR REPLACE FUNCTION hub.prune_v1(keep bigint, keep_bytes bigint, most bigint) RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  dropped bigint;
BEGIN
  PERFORM require_home();
  DELETE FROM parcels p USING (
    SELECT old.stream, old.number FROM parcels old JOIN streams s ON s.stream = old.stream
     WHERE old.number <= s.taken AND (old.at < now_ms() - keep OR old.bytes_before_next < s.last_bytes - keep_bytes)
     LIMIT most
  ) doomed WHERE p.stream = doomed.stream AND p.number = doomed.number;
  GET DIAGNOSTICS dropped = ROW_COUNT;
  DELETE FROM streams s WHERE NOT s.is_open AND s.taken = s.last
     AND NOT EXISTS (SELECT 1 FROM parcels p WHERE p.stream = s.stream);
  RETURN dropped;
END $$;
SELECT hub.permit('prune_v1', 'home');
