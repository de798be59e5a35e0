-- What a parcel takes in the log: its body, and its row.
CREATE OR REPLACE FUNCTION hub.weight(body bytea) RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT length(body)::bigint + 256 $$;

-- The largest body, and the most cursors or limits of one call: more than any uplink sends, and no more than home reads.
CREATE OR REPLACE FUNCTION hub.most_body_bytes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 16777216::bigint $$;

CREATE OR REPLACE FUNCTION hub.most_notes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 100000::bigint $$;

-- What may wait for home of one host; beyond it the host waits, and its relays are not read.
CREATE OR REPLACE FUNCTION hub.most_untaken_bytes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 268435456::bigint $$;

CREATE OR REPLACE FUNCTION hub.untaken_bytes(of_host text) RETURNS bigint
  LANGUAGE sql STABLE SET search_path = hub, pg_temp
  AS $$ SELECT coalesce(sum(last_bytes - taken_bytes), 0)::bigint FROM streams WHERE streams.host = of_host $$;

-- Open the calling host's stream, or find that it is open; return the number of its last parcel. Another
-- stream of the host is closed for good. Raises object_not_in_prerequisite_state for a stream that was closed so.
CREATE OR REPLACE FUNCTION hub.open_stream_v1(name text) RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
  current_ streams;
BEGIN
  PERFORM 1 FROM hosts WHERE hosts.host = mine.host FOR UPDATE;
  SELECT * INTO current_ FROM streams WHERE stream = name;
  IF current_.stream IS NULL THEN
    IF (SELECT count(*) FROM streams WHERE streams.host = mine.host) >= 100 THEN
      RAISE program_limit_exceeded USING MESSAGE = 'the host has 100 streams whose parcels are kept';
    END IF;
    UPDATE streams SET is_open = false WHERE streams.host = mine.host AND is_open;
    INSERT INTO streams (stream, host, opened_at) VALUES (name, mine.host, now_ms());
    RETURN 0;
  END IF;
  IF current_.host <> mine.host THEN
    RAISE insufficient_privilege USING MESSAGE = 'the stream is of another host';
  END IF;
  IF NOT current_.is_open THEN
    RAISE object_not_in_prerequisite_state USING MESSAGE = 'the stream was closed by a newer one of this host';
  END IF;
  RETURN current_.last;
END $$;
SELECT hub.permit('open_stream_v1', 'edge');

-- Take the parcel if its number follows the last one. Answers:
--   taken   it is kept, with its cursors
--   other   it is not: `last_number` is the newest that is kept; the caller goes on behind it
--   wait    it is not: home has so much to take already; the caller tries again later
-- Cursors come as three arrays of one length per relay and query, limits as two.
CREATE OR REPLACE FUNCTION hub.hand_over_v1(
  name text, its_number bigint, its_body bytea,
  cursor_relays text[], cursor_queries text[], cursor_untils bigint[], cursor_generations bigint[],
  limit_relays text[], limit_texts text[]
) RETURNS TABLE (answer text, last_number bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
  current_ streams;
  latest bigint := now_ms() / 1000 + 900;
  end_bytes bigint;
BEGIN
  SELECT * INTO current_ FROM streams WHERE stream = name AND streams.host = mine.host FOR UPDATE;
  IF current_.stream IS NULL OR NOT current_.is_open THEN
    RAISE object_not_in_prerequisite_state USING MESSAGE = 'the stream is not open';
  END IF;
  IF length(its_body) > most_body_bytes() OR greatest(cardinality(cursor_relays), cardinality(limit_relays)) > most_notes()
  THEN
    RAISE program_limit_exceeded USING MESSAGE = 'the parcel is larger than any that is taken';
  END IF;
  IF its_number <> current_.last + 1 THEN
    RETURN QUERY SELECT 'other', current_.last;
    RETURN;
  END IF;
  IF untaken_bytes(mine.host) >= most_untaken_bytes() THEN
    RETURN QUERY SELECT 'wait', current_.last;
    RETURN;
  END IF;
  end_bytes := current_.last_bytes + weight(its_body);
  INSERT INTO parcels (stream, number, at, bytes_before_next, body)
  VALUES (name, its_number, now_ms(), end_bytes, its_body);
  UPDATE streams SET last = its_number, last_bytes = end_bytes WHERE stream = name;
  INSERT INTO cursors AS old (relay, query, complete_until, generation)
  SELECT r, q, max(least(u, latest)), max(g)
    FROM unnest(cursor_relays, cursor_queries, cursor_untils, cursor_generations) AS new (r, q, u, g)
   GROUP BY r, q ORDER BY r, q
  ON CONFLICT (relay, query) DO UPDATE SET
    complete_until = CASE WHEN old.complete_until > latest THEN excluded.complete_until
                          ELSE greatest(old.complete_until, excluded.complete_until) END,
    generation = greatest(old.generation, excluded.generation);
  INSERT INTO limits (relay, limits)
  SELECT DISTINCT ON (r) r, t FROM unnest(limit_relays, limit_texts) AS new (r, t) ORDER BY r
  ON CONFLICT (relay) DO UPDATE SET limits = excluded.limits;
  PERFORM pg_notify(current_database() || '_parcels', '');
  RETURN QUERY SELECT 'taken', its_number;
END $$;
SELECT hub.permit('hand_over_v1', 'edge');

-- The cursors of relays, as far as handed over, for the host that begins to crawl them.
CREATE OR REPLACE FUNCTION hub.cursors_v1(addresses text[])
  RETURNS TABLE (relay text, query text, complete_until bigint, generation bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT c.relay, c.query, c.complete_until, c.generation FROM cursors c WHERE c.relay = ANY (addresses)
$$;
SELECT hub.permit('cursors_v1', 'edge', 'home');

-- What other hosts learned of the limits of relays.
CREATE OR REPLACE FUNCTION hub.limits_v1(addresses text[]) RETURNS TABLE (relay text, limits text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT l.relay, l.limits FROM limits l WHERE l.relay = ANY (addresses)
$$;
SELECT hub.permit('limits_v1', 'edge', 'home');
