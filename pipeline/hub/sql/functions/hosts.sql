-- The host that calls, by its login. Raises insufficient_privilege where the login is of no host.
CREATE OR REPLACE FUNCTION hub.caller() RETURNS hub.hosts
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  current_ hub.hosts;
BEGIN
  SELECT * INTO current_ FROM hosts WHERE login = session_user;
  IF NOT FOUND THEN
    RAISE insufficient_privilege USING MESSAGE = format('login %s is of no host', session_user);
  END IF;
  RETURN current_;
END $$;

-- Note that the calling host lives: its version, clock and what waits on it; return its name and whether it drains.
CREATE OR REPLACE FUNCTION hub.report_v1(
  its_version text, its_now bigint, its_backlog_events bigint, its_backlog_parcels bigint
) RETURNS TABLE (host text, is_draining boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
#variable_conflict use_column
DECLARE
  mine hosts := caller();
BEGIN
  UPDATE hosts SET version = left(its_version, 64), seen_at = now_ms(), clock_skew = its_now - now_ms(),
    backlog_events = its_backlog_events, backlog_parcels = its_backlog_parcels
   WHERE hosts.host = mine.host;
  RETURN QUERY SELECT mine.host, mine.is_draining;
END $$;
SELECT hub.permit('report_v1', 'edge');

-- All hosts, for home's status.
CREATE OR REPLACE FUNCTION hub.hosts_v1()
  RETURNS TABLE (host text, is_draining boolean, version text, seen_ago bigint, clock_skew bigint,
    backlog_events bigint, backlog_parcels bigint, untaken bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT h.host, h.is_draining, h.version, CASE h.seen_at WHEN 0 THEN NULL ELSE now_ms() - h.seen_at END, h.clock_skew,
    h.backlog_events, h.backlog_parcels,
    (SELECT coalesce(sum(s.last - s.taken), 0)::bigint FROM streams s WHERE s.host = h.host)
  FROM hosts h ORDER BY h.host
$$;
SELECT hub.permit('hosts_v1', 'home');

-- Let a host drain, or crawl again; return whether it is known.
CREATE OR REPLACE FUNCTION hub.drain_v1(its_host text, drains boolean) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  UPDATE hosts SET is_draining = drains WHERE host = its_host;
  RETURN FOUND;
END $$;
SELECT hub.permit('drain_v1', 'home');
