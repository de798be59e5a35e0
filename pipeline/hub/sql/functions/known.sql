-- Let other hosts know ids that home has saved; the newest thousand calls are kept.
CREATE OR REPLACE FUNCTION hub.tell_known_v1(of_host text, its_packed bytea) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  added bigint;
BEGIN
  PERFORM require_home();
  INSERT INTO known (host, packed) VALUES (of_host, its_packed) RETURNING number INTO added;
  DELETE FROM known WHERE number <= added - 1000;
END $$;
SELECT hub.permit('tell_known_v1', 'home');

-- What home has saved of other hosts since a place, so many rows at most; and the place behind it, which is lower than
-- the one given after the hub went back. A place below zero is the end.
CREATE OR REPLACE FUNCTION hub.known_v1(after bigint, most bigint) RETURNS TABLE (place bigint, packed bytea)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
  newest bigint := coalesce((SELECT max(number) FROM known), 0);
BEGIN
  IF after < 0 OR after >= newest THEN
    RETURN QUERY SELECT newest, ''::bytea;
    RETURN;
  END IF;
  RETURN QUERY SELECT coalesce(max(k.number), newest),
      coalesce(string_agg(k.packed, ''::bytea ORDER BY k.number) FILTER (WHERE k.host <> mine.host), ''::bytea)
    FROM (SELECT * FROM known WHERE number > after ORDER BY number LIMIT most) k;
END $$;
SELECT hub.permit('known_v1', 'edge');
