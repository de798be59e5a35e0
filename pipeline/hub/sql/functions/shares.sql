-- Serialize whatever changes shares: two hosts never find the same share free.
CREATE OR REPLACE FUNCTION hub.lock_shares() RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = hub, pg_temp
  AS $$ BEGIN PERFORM 1 FROM locks WHERE name = 'shares' FOR UPDATE; END $$;
REVOKE ALL ON FUNCTION hub.lock_shares() FROM PUBLIC;

-- Let the holders of shares know that something changed; called with `lock_shares`.
CREATE OR REPLACE FUNCTION hub.touch_leases(of_hosts text[]) RETURNS void
  LANGUAGE sql VOLATILE SET search_path = hub, pg_temp
  AS $$
UPDATE share_leases SET version = nextval('share_versions') WHERE host = ANY (of_hosts)
$$;
REVOKE ALL ON FUNCTION hub.touch_leases(text[]) FROM PUBLIC;

-- Let no lease end, nor last, by a step of the database's clock; called with `lock_shares`. Hosts renew every few
-- seconds. So when none has for longer, the clock was set ahead, or all were away; when the last renewal is yet to come,
-- it was set back. Either way leases have as long to go as they had then, less than which no host may have seen.
CREATE OR REPLACE FUNCTION hub.follow_clock() RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = hub, pg_temp
  AS $$
DECLARE
  now_ bigint := now_ms();
  before_ bigint := (SELECT at FROM share_clock);
BEGIN
  IF now_ < before_ OR now_ > before_ + 6000 THEN
    UPDATE share_leases SET until = now_ + (until - before_) WHERE until > before_;
  END IF;
  UPDATE share_clock SET at = now_;
END $$;
REVOKE ALL ON FUNCTION hub.follow_clock() FROM PUBLIC;

-- Renew the lease of the calling host for so many ms, and take what it is to hold and nobody holds, if it wants to.
-- Return the version of what it holds; unless that is `known`, also what it holds and is to hold, and what it holds and
-- is to release. `went_back`: the renewal `confirmed` is not known here; then nothing is taken.
CREATE OR REPLACE FUNCTION hub.renew_shares_v1(
  lease bigint, known bigint, number bigint, confirmed bigint, takes boolean
) RETURNS TABLE (its_version bigint, went_back boolean, held text[], leaving text[])
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
  losers text[];
  current_ bigint;
  is_older boolean;
BEGIN
  PERFORM lock_shares();
  PERFORM follow_clock();
  is_older := coalesce((SELECT renewal FROM share_leases WHERE host = mine.host), 0) < confirmed;
  INSERT INTO share_leases AS l (host, until, version, renewal)
  VALUES (mine.host, now_ms() + least(greatest(lease, 1000), 120000), nextval('share_versions'), number)
  ON CONFLICT (host) DO UPDATE SET until = excluded.until, renewal = greatest(l.renewal, excluded.renewal);
  WITH free AS (
    SELECT s.host_key, s.holder FROM shares s
     WHERE takes AND NOT is_older AND s.wished = mine.host AND s.wished IS DISTINCT FROM s.holder AND NOT EXISTS (
       SELECT 1 FROM share_leases l WHERE l.host = s.holder AND l.until > now_ms()
     )
  ),
  taken AS (
    UPDATE shares SET holder = mine.host, epoch = epoch + 1 FROM free WHERE shares.host_key = free.host_key
    RETURNING free.holder
  )
  SELECT array_agg(DISTINCT coalesce(holder, mine.host)) INTO losers FROM taken;
  IF losers IS NOT NULL THEN
    PERFORM touch_leases(losers || mine.host);
  END IF;
  SELECT version INTO current_ FROM share_leases WHERE host = mine.host;
  IF current_ = known THEN
    RETURN QUERY SELECT current_, is_older, NULL::text[], NULL::text[];
  ELSE
    RETURN QUERY SELECT current_, is_older,
      coalesce(array_agg(host_key) FILTER (WHERE wished = mine.host), '{}'),
      coalesce(array_agg(host_key) FILTER (WHERE wished IS DISTINCT FROM mine.host), '{}')
      FROM shares WHERE holder = mine.host;
  END IF;
END $$;
SELECT hub.permit('renew_shares_v1', 'edge');

-- Release shares of the calling host: it asks these relays no more.
CREATE OR REPLACE FUNCTION hub.release_shares_v1(keys text[]) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
BEGIN
  PERFORM lock_shares();
  UPDATE shares SET holder = NULL, epoch = epoch + 1 WHERE holder = mine.host AND host_key = ANY (keys);
  IF FOUND THEN
    DELETE FROM shares WHERE host_key = ANY (keys) AND holder IS NULL AND wished IS NULL;
    PERFORM touch_leases(ARRAY[mine.host]);
  END IF;
END $$;
SELECT hub.permit('release_shares_v1', 'edge');

-- Release all shares of the calling host, which ends.
CREATE OR REPLACE FUNCTION hub.leave_v1() RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
BEGIN
  PERFORM lock_shares();
  UPDATE shares SET holder = NULL, epoch = epoch + 1 WHERE holder = mine.host;
  DELETE FROM shares WHERE holder IS NULL AND wished IS NULL;
  UPDATE share_leases SET until = 0, version = nextval('share_versions') WHERE host = mine.host;
END $$;
SELECT hub.permit('leave_v1', 'edge');

-- The relays that the calling host is to crawl of these hosts, which it holds.
CREATE OR REPLACE FUNCTION hub.relays_v1(keys text[])
  RETURNS TABLE (relay text, host_key text, orders text, version bigint)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
BEGIN
  RETURN QUERY SELECT r.relay, r.host_key, r.orders, r.version FROM relays r JOIN shares s ON s.host_key = r.host_key
   WHERE s.holder = mine.host AND r.host_key = ANY (keys) AND r.orders IS NOT NULL;
END $$;
SELECT hub.permit('relays_v1', 'edge');

-- What changed after version `known` of the relays of hosts that the calling host holds; no orders: wanted no more.
CREATE OR REPLACE FUNCTION hub.changed_relays_v1(known bigint)
  RETURNS TABLE (relay text, host_key text, orders text, version bigint)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
BEGIN
  RETURN QUERY SELECT r.relay, r.host_key, r.orders, r.version FROM relays r JOIN shares s ON s.host_key = r.host_key
   WHERE s.holder = mine.host AND r.version > known;
END $$;
SELECT hub.permit('changed_relays_v1', 'edge');

-- Say that the calling host cannot use relays of a host: for a day, and twice as long each time again. Another host
-- is to have the share, if one can use them.
CREATE OR REPLACE FUNCTION hub.report_unfit_v1(key text, why text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  mine hosts := caller();
  day constant bigint := 86400000;
BEGIN
  PERFORM lock_shares();
  IF NOT EXISTS (SELECT 1 FROM shares WHERE host_key = key AND holder = mine.host) THEN
    RETURN;
  END IF;
  IF EXISTS (SELECT 1 FROM unfit WHERE host = mine.host AND host_key = key AND until > now_ms()) THEN
    RETURN;
  END IF;
  -- After a month without trouble it begins again.
  INSERT INTO unfit AS u (host, host_key, until, times, reason)
  VALUES (mine.host, key, now_ms() + day, 1, left(why, 200))
  ON CONFLICT (host, host_key) DO UPDATE SET
    times = CASE WHEN u.until < now_ms() - 30 * day THEN 1 ELSE least(u.times + 1, 5) END,
    until = now_ms() + day * CASE WHEN u.until < now_ms() - 30 * day THEN 1 ELSE (1 << least(u.times, 4)) END,
    reason = excluded.reason;
  UPDATE shares SET wished = NULL WHERE host_key = key AND wished = mine.host;
  PERFORM touch_leases(ARRAY[mine.host]);
END $$;
SELECT hub.permit('report_unfit_v1', 'edge');

-- Who is to hold what, as home said last, and who holds it.
CREATE OR REPLACE FUNCTION hub.shares_v1() RETURNS TABLE (host_key text, wished text, holder text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT s.host_key, s.wished, s.holder FROM shares s $$;
SELECT hub.permit('shares_v1', 'home');

-- Which host cannot use which relays now.
CREATE OR REPLACE FUNCTION hub.unfit_v1() RETURNS TABLE (host text, host_key text, until bigint, reason text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT u.host, u.host_key, u.until, u.reason FROM unfit u WHERE u.until > now_ms() $$;
SELECT hub.permit('unfit_v1', 'home');

-- All relays as home ordered them last.
CREATE OR REPLACE FUNCTION hub.ordered_relays_v1() RETURNS TABLE (relay text, host_key text, orders text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT r.relay, r.host_key, r.orders FROM relays r WHERE r.orders IS NOT NULL $$;
SELECT hub.permit('ordered_relays_v1', 'home');

-- Let these relays be crawled as ordered; those without orders no more.
CREATE OR REPLACE FUNCTION hub.wish_relays_v1(addresses text[], keys text[], orders_ text[]) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  PERFORM lock_shares();
  INSERT INTO relays (relay, host_key, orders, version)
  SELECT n.relay, n.host_key, n.orders, nextval('share_versions')
    FROM unnest(addresses, keys, orders_) AS n (relay, host_key, orders)
  ON CONFLICT (relay) DO UPDATE SET
    host_key = excluded.host_key, orders = excluded.orders, version = excluded.version;
  PERFORM touch_leases(ARRAY(SELECT DISTINCT holder FROM shares WHERE host_key = ANY (keys) AND holder IS NOT NULL));
  DELETE FROM relays r WHERE r.orders IS NULL AND NOT EXISTS (SELECT 1 FROM shares s WHERE s.host_key = r.host_key);
END $$;
SELECT hub.permit('wish_relays_v1', 'home');

-- Let shares be held by these hosts; NULL: by none. Hosts that are not known are left out.
CREATE OR REPLACE FUNCTION hub.wish_shares_v1(keys text[], its_hosts text[]) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  PERFORM lock_shares();
  INSERT INTO shares (host_key, wished)
  SELECT n.host_key, n.host FROM unnest(keys, its_hosts) AS n (host_key, host)
   WHERE n.host IS NULL OR EXISTS (SELECT 1 FROM hosts h WHERE h.host = n.host)
  ON CONFLICT (host_key) DO UPDATE SET wished = excluded.wished;
  DELETE FROM shares WHERE host_key = ANY (keys) AND holder IS NULL AND wished IS NULL;
  PERFORM touch_leases(ARRAY(SELECT DISTINCT holder FROM shares WHERE host_key = ANY (keys) AND holder IS NOT NULL));
END $$;
SELECT hub.permit('wish_shares_v1', 'home');
