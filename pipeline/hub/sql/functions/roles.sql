-- Who is home. The role belongs to one database, by its id, and has an epoch, which grows with each connection by which it
-- is held. A connection acts for the epoch that it was given; functions by which home changes anything call
-- `require_home`, so that none takes effect for an epoch that is over.

-- Wait for what home's functions change now, and let none of them begin.
CREATE OR REPLACE FUNCTION hub.lock_home() RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = hub, pg_temp
  AS $$ BEGIN PERFORM 1 FROM locks WHERE name = 'home' FOR UPDATE; END $$;

-- Raise EH001 unless the connection acts for the epoch that is in force, if there was ever one; until the transaction
-- ends no other begins.
CREATE OR REPLACE FUNCTION hub.require_home() RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM 1 FROM locks WHERE name = 'home' FOR SHARE;
  IF (SELECT epoch::text FROM roles WHERE role = 'home') IS DISTINCT FROM current_setting('hub.home_epoch', true) THEN
    RAISE EXCEPTION USING ERRCODE = 'EH001', MESSAGE = 'another connection is home since';
  END IF;
END $$;

-- Let the database `id` be home from now on, in a new epoch, of which the connection is.
CREATE OR REPLACE FUNCTION hub.begin_home(id text, its_place text, until_ bigint) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = hub, pg_temp
  AS $$
DECLARE
  now_ bigint := now_ms();
  begun bigint;
BEGIN
  INSERT INTO roles AS r (role, holder, epoch, until, place, since) VALUES ('home', id, 1, until_, its_place, now_)
  ON CONFLICT (role) DO UPDATE SET holder = id, epoch = r.epoch + 1, until = until_, place = its_place,
    since = CASE r.holder WHEN id THEN r.since ELSE now_ END
  RETURNING epoch INTO begun;
  PERFORM set_config('hub.home_epoch', begun::text, false);
  RETURN begun;
END $$;

-- Be home for so many ms more. `known`: the epoch that the database held last. The answer has the epoch that is held, or
-- NULL: another database is home, at `its_place`, which was heard of so many ms ago and whose lease has so many left; or the
-- lease of the one before at the same place is not over.
CREATE OR REPLACE FUNCTION hub.hold_home_v1(id text, place_ text, lease bigint, known bigint)
  RETURNS TABLE (held bigint, its_place text, left_ms bigint, is_same_place boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  now_ bigint := now_ms();
  until_ bigint := now_ + least(greatest(lease, 1000), 120000);
  current_ roles;
BEGIN
  UPDATE roles SET until = until_ WHERE role = 'home' AND holder = id AND epoch = known
     AND epoch::text = current_setting('hub.home_epoch', true);
  IF FOUND THEN
    RETURN QUERY SELECT known, place_, until_ - now_, true;
    RETURN;
  END IF;
  PERFORM lock_home();
  SELECT * INTO current_ FROM roles WHERE role = 'home';
  -- The same database may begin at once if it is the one that held the epoch; a copy that was put in its place waits
  -- for the end of the lease, since the other may still run.
  IF current_.role IS NULL OR (current_.holder = id AND current_.epoch = known)
     OR (current_.until <= now_ AND (current_.holder = id OR current_.place = place_)) THEN
    RETURN QUERY SELECT begin_home(id, place_, until_), place_, until_ - now_, true;
  ELSE
    RETURN QUERY SELECT NULL::bigint, current_.place, current_.until - now_,
      current_.holder = id OR current_.place = place_;
  END IF;
END $$;
SELECT hub.permit('hold_home_v1', 'home');

-- Be of the epoch that is in force, if the database `id` is home; where none is home yet, it is from now on. The answer
-- has no epoch if another is home, at `its_place`.
CREATE OR REPLACE FUNCTION hub.enter_home_v1(id text, place_ text) RETURNS TABLE (held bigint, its_place text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  current_ roles;
BEGIN
  PERFORM lock_home();
  SELECT * INTO current_ FROM roles WHERE role = 'home';
  IF current_.role IS NULL THEN
    RETURN QUERY SELECT begin_home(id, place_, now_ms()), place_;
  ELSIF current_.holder = id THEN
    PERFORM set_config('hub.home_epoch', current_.epoch::text, false);
    RETURN QUERY SELECT current_.epoch, place_;
  ELSE
    RETURN QUERY SELECT NULL::bigint, current_.place;
  END IF;
END $$;
SELECT hub.permit('enter_home_v1', 'home');

-- Let the database `id` be home in place of another, whose lease must be over. The answer has no epoch if it is not: the
-- lease of the one at `its_place` lasts for so many ms more.
CREATE OR REPLACE FUNCTION hub.take_home_v1(id text, place_ text)
  RETURNS TABLE (held bigint, its_place text, left_ms bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  current_ roles;
BEGIN
  PERFORM lock_home();
  SELECT * INTO current_ FROM roles WHERE role = 'home';
  IF current_.until > now_ms() AND current_.holder <> id THEN
    RETURN QUERY SELECT NULL::bigint, current_.place, current_.until - now_ms();
  ELSE
    RETURN QUERY SELECT begin_home(id, place_, greatest(now_ms(), current_.until)), coalesce(current_.place, place_), 0::bigint;
  END IF;
END $$;
SELECT hub.permit('take_home_v1', 'home');

-- Let the lease end, if the connection holds it.
CREATE OR REPLACE FUNCTION hub.leave_home_v1() RETURNS void
  LANGUAGE sql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
UPDATE roles SET until = now_ms() WHERE role = 'home' AND epoch::text = current_setting('hub.home_epoch', true)
$$;
SELECT hub.permit('leave_home_v1', 'home');

-- The database that is home: its id, where it lies, its epoch, since when, and for how long its lease lasts (ms).
CREATE OR REPLACE FUNCTION hub.home_v1()
  RETURNS TABLE (id text, place text, epoch bigint, since_ago bigint, left_ms bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT r.holder, r.place, r.epoch, now_ms() - r.since, r.until - now_ms() FROM roles r WHERE r.role = 'home' $$;
SELECT hub.permit('home_v1', 'home');
