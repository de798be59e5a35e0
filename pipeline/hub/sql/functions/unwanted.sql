-- Let crawling hosts forget ids, or all that they know; the newest thousand calls are kept.
CREATE OR REPLACE FUNCTION hub.put_unwanted_v1(its_packed bytea, is_all boolean) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  added bigint;
  dropped bigint;
BEGIN
  PERFORM require_home();
  -- The lock of this row lets numbers become visible in their order.
  SELECT greatest(now_ms(), p.unwanted_dropped + 1, (SELECT max(u.number) + 1 FROM unwanted u)) INTO added
    FROM plan p FOR UPDATE;
  INSERT INTO unwanted (number, packed) VALUES (added, its_packed);
  dropped := CASE WHEN is_all THEN added ELSE (SELECT u.number FROM unwanted u ORDER BY u.number DESC OFFSET 1000 LIMIT 1) END;
  IF dropped IS NOT NULL THEN
    DELETE FROM unwanted u WHERE u.number <= dropped;
    UPDATE plan SET unwanted_dropped = dropped;
  END IF;
END $$;
SELECT hub.permit('put_unwanted_v1', 'home');

-- What is to be forgotten behind a place, of so many calls at most, and the place behind it. Not `is_whole`: what was
-- dropped since; the host forgets all ids and goes on from there.
CREATE OR REPLACE FUNCTION hub.unwanted_v1(after bigint, most bigint)
  RETURNS TABLE (place bigint, packed bytea, is_whole boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT CASE WHEN after < p.unwanted_dropped THEN p.unwanted_dropped ELSE coalesce(max(f.number), after) END,
       coalesce(string_agg(f.packed, ''::bytea ORDER BY f.number), ''::bytea),
       after >= p.unwanted_dropped
  FROM plan p LEFT JOIN (
    SELECT u.number, u.packed FROM unwanted u WHERE u.number > after ORDER BY u.number LIMIT most
  ) f ON true
 GROUP BY p.unwanted_dropped
$$;
SELECT hub.permit('unwanted_v1', 'edge');
