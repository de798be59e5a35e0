-- Keep what a user or the operator did under the next number, which is above `position`, the newest that home has. Return
-- it. What says the same of the key and is older is dropped.
CREATE OR REPLACE FUNCTION hub.put_user_act_v1(its_kind text, key bytea, its_at bigint, its_event bytea, position_ bigint)
  RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  its_number bigint;
BEGIN
  PERFORM require_home();
  -- The lock of this row lets numbers become visible in their order.
  UPDATE user_act_numbers SET last = greatest(last, position_) + 1 RETURNING last INTO its_number;
  DELETE FROM user_acts WHERE public_key = key AND kind = ANY (CASE its_kind
    WHEN 'register' THEN ARRAY['register']
    WHEN 'add' THEN ARRAY['add', 'remove', 'block']
    WHEN 'remove' THEN ARRAY['register', 'add', 'remove']
    WHEN 'block' THEN ARRAY['register', 'add', 'remove', 'block']
    ELSE ARRAY[]::text[] END);
  INSERT INTO user_acts (number, kind, public_key, at, event) VALUES (its_number, its_kind, key, its_at, its_event);
  RETURN its_number;
END $$;
SELECT hub.permit('put_user_act_v1', 'home');

-- What users and the operator did after this number, in order.
CREATE OR REPLACE FUNCTION hub.user_acts_v1(after bigint, most bigint)
  RETURNS TABLE (number bigint, kind text, public_key bytea, at bigint, event bytea)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT a.number, a.kind, a.public_key, a.at, a.event FROM user_acts a WHERE a.number > after ORDER BY a.number LIMIT most
$$;
SELECT hub.permit('user_acts_v1', 'home');

-- The number of the newest act that was dropped because a backup of home has it.
CREATE OR REPLACE FUNCTION hub.dropped_user_acts_v1() RETURNS bigint
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT n.dropped FROM user_act_numbers n $$;
SELECT hub.permit('dropped_user_acts_v1', 'home');
