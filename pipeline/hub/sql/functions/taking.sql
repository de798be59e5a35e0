-- Parcels beyond what home has of each stream, in the order of their numbers, of all streams by turns: at most so many
-- and so many bytes, but one in any case. A stream that home does not name begins at its first kept parcel. `before`:
-- the digest of the stream before the parcel, by which home knows that it is the stream that it took.
CREATE OR REPLACE FUNCTION hub.parcels_v1(names text[], numbers bigint[], most bigint, most_bytes bigint)
  RETURNS TABLE (stream text, host text, number bigint, before bytea, digest bytea, body bytea, notes bytea)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
WITH known AS (SELECT * FROM unnest(names, numbers) AS k (stream, number)),
found AS (
  SELECT p.stream, s.host, p.number, p.before, p.digest, p.body, p.notes,
         row_number() OVER w AS place, sum(weight(p.body, p.notes)) OVER w - weight(p.body, p.notes) AS bytes_before
    FROM streams s
    LEFT JOIN known k ON k.stream = s.stream
    CROSS JOIN LATERAL (
      SELECT * FROM parcels WHERE parcels.stream = s.stream AND parcels.number > coalesce(k.number, 0)
       ORDER BY parcels.number LIMIT most
    ) p
   WHERE s.last > coalesce(k.number, 0)
  WINDOW w AS (ORDER BY p.number - coalesce(k.number, 0), p.stream)
)
SELECT stream, host, number, before, digest, body, notes FROM found
 WHERE place <= most AND bytes_before < most_bytes ORDER BY place
$$;
SELECT hub.permit('parcels_v1', 'home');

-- How far each stream is that has or had parcels: home finds by it that the hub went back behind what home has.
CREATE OR REPLACE FUNCTION hub.streams_v1(names text[]) RETURNS TABLE (stream text, last_number bigint, digest bytea)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT s.stream, s.last, s.last_digest FROM streams s WHERE s.stream = ANY (names) $$;
SELECT hub.permit('streams_v1', 'home');

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
