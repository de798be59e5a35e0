-- What a parcel takes in the log: what is in it, and its row.
CREATE OR REPLACE FUNCTION hub.weight(body bytea, notes bytea) RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT length(body)::bigint + length(notes) + 256 $$;

-- The digest of a stream with one more parcel: equal digests mean equal parcels, all of them. `Chain` in the program
-- computes the same.
CREATE OR REPLACE FUNCTION hub.chained(before bytea, body bytea, notes bytea) RETURNS bytea
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT sha256(before || sha256(body) || sha256(notes)) $$;

-- The largest body, and the most cursors or limits of one call: more than any uplink sends, and no more than home reads.
CREATE OR REPLACE FUNCTION hub.most_body_bytes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 16777216::bigint $$;

CREATE OR REPLACE FUNCTION hub.most_notes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 100000::bigint $$;

-- Rows of cursors and limits that one host may add: ten thousand relays with four hundred queries each.
CREATE OR REPLACE FUNCTION hub.most_noted() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 4000000::bigint $$;

-- What may wait for home of one host; beyond it the host waits, and its relays are not read.
CREATE OR REPLACE FUNCTION hub.most_untaken_bytes() RETURNS bigint
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT 268435456::bigint $$;

CREATE OR REPLACE FUNCTION hub.untaken_bytes(of_host text) RETURNS bigint
  LANGUAGE sql STABLE SET search_path = hub, pg_temp
  AS $$ SELECT coalesce(sum(last_bytes - taken_bytes), 0)::bigint FROM streams WHERE streams.host = of_host $$;

-- Open the calling host's stream, or find it; return the number and digest of its last parcel, whether it was not known,
-- and whether it is the host's newest. Another stream of the host is closed by a new one, unless that follows a
-- `predecessor` that is closed: then it is of an old disk, and closed as well.
CREATE OR REPLACE FUNCTION hub.open_stream_v1(name text, predecessor text)
  RETURNS TABLE (last_number bigint, digest bytea, was_unknown boolean, is_newest boolean, hub_now bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
  current_ streams;
  is_old boolean;
BEGIN
  PERFORM 1 FROM hosts WHERE hosts.host = mine.host FOR UPDATE;
  SELECT * INTO current_ FROM streams WHERE stream = name;
  IF current_.stream IS NOT NULL THEN
    IF current_.host <> mine.host THEN
      RAISE insufficient_privilege USING MESSAGE = 'the stream is of another host';
    END IF;
    RETURN QUERY SELECT current_.last, current_.last_digest, false, current_.is_open, now_ms();
    RETURN;
  END IF;
  IF (SELECT count(*) FROM streams s WHERE s.host = mine.host
        AND EXISTS (SELECT 1 FROM parcels p WHERE p.stream = s.stream)) >= 100 THEN
    RAISE program_limit_exceeded USING MESSAGE = 'the host has 100 streams whose parcels are kept';
  END IF;
  is_old := EXISTS (SELECT 1 FROM streams s WHERE s.stream = predecessor AND s.host = mine.host AND NOT s.is_open);
  IF NOT is_old THEN
    UPDATE streams SET is_open = false WHERE streams.host = mine.host AND is_open;
  END IF;
  INSERT INTO streams (stream, host, opened_at, is_open) VALUES (name, mine.host, now_ms(), NOT is_old);
  -- Names of closed streams stay known, the newest thousand.
  DELETE FROM streams s WHERE s.stream IN (
    SELECT o.stream FROM streams o WHERE o.host = mine.host ORDER BY o.opened_at DESC, o.is_open DESC OFFSET 1000
  ) AND NOT s.is_open AND s.taken = s.last AND NOT EXISTS (SELECT 1 FROM parcels p WHERE p.stream = s.stream);
  RETURN QUERY SELECT 0::bigint, ''::bytea, true, NOT is_old, now_ms();
END $$;
SELECT hub.permit('open_stream_v1', 'edge');

-- Note cursors, as far as they are bounded; return how many were not. Time and generation are one claim: of two hosts'
-- claims the one of the newer generation stands, since neither host vouches for the later time with it.
CREATE OR REPLACE FUNCTION hub.put_cursors(
  of_host text, relays text[], queries text[], untils bigint[], generations bigint[]
) RETURNS bigint
  LANGUAGE plpgsql SET search_path = hub, pg_temp
  AS $$
DECLARE
  latest bigint := now_ms() / 1000 + 900;
  room bigint := most_noted() - (SELECT noted FROM hosts WHERE hosts.host = of_host);
  fitting bigint;
  added bigint;
BEGIN
  WITH fit AS (
    SELECT DISTINCT ON (r, q) r, q, least(u, latest) AS until, g AS generation
      FROM unnest(relays, queries, untils, generations) AS n (r, q, u, g)
     WHERE length(r) <= 1024 AND length(q) <= 256
     ORDER BY r, q, g DESC, u DESC
  ),
  placed AS (
    SELECT fit.*, EXISTS (SELECT 1 FROM cursors c WHERE c.relay = r AND c.query = q) AS is_known FROM fit
  ),
  chosen AS (
    SELECT * FROM placed WHERE is_known OR room > 0
  ),
  written AS (
    INSERT INTO cursors AS old (relay, query, complete_until, generation)
    SELECT r, q, until, generation FROM chosen ORDER BY r, q
    ON CONFLICT (relay, query) DO UPDATE SET
      complete_until = CASE WHEN old.complete_until > latest OR excluded.generation > old.generation
                            THEN excluded.complete_until
                            WHEN excluded.generation < old.generation THEN old.complete_until
                            ELSE greatest(old.complete_until, excluded.complete_until) END,
      generation = greatest(old.generation, excluded.generation)
    RETURNING 1
  )
  SELECT count(*), count(*) FILTER (WHERE NOT is_known), (SELECT count(*) FROM written)
    INTO fitting, added FROM chosen;
  UPDATE hosts SET noted = noted + added WHERE hosts.host = of_host AND added > 0;
  RETURN (SELECT count(DISTINCT (r, q)) FROM unnest(relays, queries) AS n (r, q)) - fitting;
END $$;
REVOKE ALL ON FUNCTION hub.put_cursors(text, text[], text[], bigint[], bigint[]) FROM PUBLIC;

-- Note limits, as far as they are bounded; return how many were not.
CREATE OR REPLACE FUNCTION hub.put_limits(of_host text, relays text[], texts text[]) RETURNS bigint
  LANGUAGE plpgsql SET search_path = hub, pg_temp
  AS $$
DECLARE
  room bigint := most_noted() - (SELECT noted FROM hosts WHERE hosts.host = of_host);
  fitting bigint;
  added bigint;
BEGIN
  WITH fit AS (
    SELECT DISTINCT ON (r) r, t FROM unnest(relays, texts) AS n (r, t)
     WHERE length(r) <= 1024 AND length(t) <= 16384 ORDER BY r
  ),
  placed AS (
    SELECT fit.*, EXISTS (SELECT 1 FROM limits l WHERE l.relay = r) AS is_known FROM fit
  ),
  chosen AS (
    SELECT * FROM placed WHERE is_known OR room > 0
  ),
  written AS (
    INSERT INTO limits (relay, limits) SELECT r, t FROM chosen ORDER BY r
    ON CONFLICT (relay) DO UPDATE SET limits = excluded.limits
    RETURNING 1
  )
  SELECT count(*), count(*) FILTER (WHERE NOT is_known), (SELECT count(*) FROM written)
    INTO fitting, added FROM chosen;
  UPDATE hosts SET noted = noted + added WHERE hosts.host = of_host AND added > 0;
  RETURN (SELECT count(DISTINCT r) FROM unnest(relays) AS n (r)) - fitting;
END $$;
REVOKE ALL ON FUNCTION hub.put_limits(text, text[], text[]) FROM PUBLIC;

-- Take the parcel if its number follows the last one and its stream is the same up to there. Answers:
--   taken   it is kept, with its cursors
--   other   it is not: `last_number` and `digest` are of the newest that is kept; the caller goes on by them
--   wait    it is not: home has so much to take already; the caller tries again later
-- Cursors come as three arrays of one length per relay and query, limits as two; `refused`: how many of them are too
-- long, or more than a host may add. `hub_now`: ms, by which the caller counts how long it keeps what it sent.
CREATE OR REPLACE FUNCTION hub.hand_over_v1(
  name text, its_number bigint, its_before bytea, its_body bytea, its_notes bytea,
  cursor_relays text[], cursor_queries text[], cursor_untils bigint[], cursor_generations bigint[],
  limit_relays text[], limit_texts text[]
) RETURNS TABLE (answer text, last_number bigint, digest bytea, refused bigint, hub_now bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
  current_ streams;
  end_bytes bigint;
  chained_ bytea;
  refused_ bigint := 0;
BEGIN
  SELECT * INTO current_ FROM streams WHERE stream = name AND streams.host = mine.host FOR UPDATE;
  IF current_.stream IS NULL THEN
    RAISE object_not_in_prerequisite_state USING MESSAGE = 'the stream is not open';
  END IF;
  IF length(its_body) + length(its_notes) > most_body_bytes()
     OR greatest(cardinality(cursor_relays), cardinality(limit_relays)) > most_notes()
  THEN
    RAISE program_limit_exceeded USING MESSAGE = 'the parcel is larger than any that is taken';
  END IF;
  IF its_number <> current_.last + 1 OR its_before <> current_.last_digest THEN
    RETURN QUERY SELECT 'other', current_.last, current_.last_digest, 0::bigint, now_ms();
    RETURN;
  END IF;
  IF untaken_bytes(mine.host) >= most_untaken_bytes() THEN
    RETURN QUERY SELECT 'wait', current_.last, current_.last_digest, 0::bigint, now_ms();
    RETURN;
  END IF;
  end_bytes := current_.last_bytes + weight(its_body, its_notes);
  chained_ := chained(its_before, its_body, its_notes);
  INSERT INTO parcels (stream, number, at, bytes_before_next, before, digest, notes, body)
  VALUES (name, its_number, now_ms(), end_bytes, its_before, chained_, its_notes, its_body);
  UPDATE streams SET last = its_number, last_bytes = end_bytes, last_digest = chained_ WHERE stream = name;
  IF cardinality(cursor_relays) > 0 THEN
    refused_ := put_cursors(mine.host, cursor_relays, cursor_queries, cursor_untils, cursor_generations);
  END IF;
  IF cardinality(limit_relays) > 0 THEN
    refused_ := refused_ + put_limits(mine.host, limit_relays, limit_texts);
  END IF;
  IF refused_ > 0 THEN
    UPDATE hosts SET refused_notes = refused_notes + refused_ WHERE hosts.host = mine.host;
  END IF;
  PERFORM pg_notify(current_database() || '_parcels', '');
  RETURN QUERY SELECT 'taken', its_number, chained_, refused_, now_ms();
END $$;
SELECT hub.permit('hand_over_v1', 'edge');

-- Which of these parcels, each of a stream with its number and digest, the hub has.
CREATE OR REPLACE FUNCTION hub.confirm_v1(names text[], numbers bigint[], digests bytea[])
  RETURNS TABLE (stream text, number bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT n.stream, n.number FROM unnest(names, numbers, digests) AS n (stream, number, digest)
 WHERE EXISTS (SELECT 1 FROM parcels p WHERE p.stream = n.stream AND p.number = n.number AND p.digest = n.digest)
    OR EXISTS (SELECT 1 FROM streams s WHERE s.stream = n.stream AND s.last = n.number AND s.last_digest = n.digest)
$$;
SELECT hub.permit('confirm_v1', 'edge', 'home');

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
