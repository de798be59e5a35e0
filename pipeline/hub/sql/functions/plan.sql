-- Which plan this is, and how far it is whole.
CREATE OR REPLACE FUNCTION hub.plan_v1() RETURNS TABLE (id text, generation bigint, lists bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT p.id, p.generation, p.lists FROM plan p $$;
SELECT hub.permit('plan_v1', 'edge', 'home');

-- Note who is wanted and who is not any more; seen by hosts once the plan is published up to their generations. Of one
-- who was never wanted nothing is kept.
CREATE OR REPLACE FUNCTION hub.put_authors_v1(
  of_subject smallint, keys bytea[], wanted boolean[], sinces bigint[], generations bigint[], tiers smallint[]
) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  UPDATE plan_authors p SET is_wanted = false, generation = n.generation
    FROM unnest(keys, wanted, generations) AS n (public_key, is_wanted, generation)
   WHERE NOT n.is_wanted AND p.subject = of_subject AND p.public_key = n.public_key AND p.generation < n.generation;
  INSERT INTO plan_authors AS old (subject, public_key, is_wanted, since, generation, tier)
  SELECT of_subject, n.public_key, true, n.since, n.generation, n.tier
    FROM unnest(keys, wanted, sinces, generations, tiers) AS n (public_key, is_wanted, since, generation, tier)
   WHERE n.is_wanted
  ON CONFLICT (subject, public_key) DO UPDATE SET is_wanted = true, since = excluded.since,
    generation = excluded.generation, tier = excluded.tier WHERE old.generation < excluded.generation;
END $$;
SELECT hub.permit('put_authors_v1', 'home');

-- Note what lists name, for hosts to see at once: lists decide about order only. Home has handed over all of its
-- changes up to number `its_change`.
CREATE OR REPLACE FUNCTION hub.put_lists_v1(keys bytea[], its_writes text[], its_reads text[], its_change bigint)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
DECLARE
  current_ bigint;
BEGIN
  PERFORM require_home();
  UPDATE plan SET lists = plan.lists + 1, home_lists = its_change RETURNING plan.lists INTO current_;
  INSERT INTO plan_lists AS old (public_key, writes, reads, change)
  SELECT DISTINCT ON (n.public_key) n.public_key, n.writes, n.reads, current_
    FROM unnest(keys, its_writes, its_reads) AS n (public_key, writes, reads) ORDER BY n.public_key
  ON CONFLICT (public_key) DO UPDATE SET writes = excluded.writes, reads = excluded.reads, change = excluded.change
   WHERE (old.writes, old.reads) IS DISTINCT FROM (excluded.writes, excluded.reads);
  PERFORM pg_notify(current_database() || '_plan', '');
END $$;
SELECT hub.permit('put_lists_v1', 'home');

-- Up to which of its changes of relay lists home has handed them over.
CREATE OR REPLACE FUNCTION hub.home_lists_v1() RETURNS bigint
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$ SELECT p.home_lists FROM plan p $$;
SELECT hub.permit('home_lists_v1', 'home');

-- The plan is whole up to this change, which never goes back.
CREATE OR REPLACE FUNCTION hub.publish_plan_v1(its_generation bigint) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
BEGIN
  PERFORM require_home();
  UPDATE plan SET generation = greatest(plan.generation, its_generation);
  PERFORM pg_notify(current_database() || '_plan', '');
END $$;
SELECT hub.permit('publish_plan_v1', 'home');

-- Who changed after a place of the order by generation and key, up to what is published: so many at most, each as key,
-- whether wanted (1 byte), tier (1), since (8) and generation (8), one after the other.
CREATE OR REPLACE FUNCTION hub.authors_v1(of_subject smallint, after_generation bigint, after_key bytea, most bigint)
  RETURNS TABLE (packed bytea)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT coalesce(string_agg(
    a.public_key || CASE WHEN a.is_wanted THEN '\x01'::bytea ELSE '\x00'::bytea END
      || substr(int2send(a.tier), 2) || int8send(a.since) || int8send(a.generation),
    ''::bytea ORDER BY a.generation, a.public_key), ''::bytea)
  FROM (
    SELECT * FROM plan_authors p
     WHERE p.subject = of_subject AND (p.generation, p.public_key) > (after_generation, after_key)
       AND p.generation <= (SELECT plan.generation FROM plan)
     ORDER BY p.generation, p.public_key LIMIT most
  ) a
$$;
SELECT hub.permit('authors_v1', 'edge', 'home');

-- What lists name that changed after a place of the order by change and key.
CREATE OR REPLACE FUNCTION hub.lists_v1(after_change bigint, after_key bytea, most bigint)
  RETURNS TABLE (public_key bytea, writes text, reads text, change bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hub, pg_temp
  AS $$
SELECT l.public_key, l.writes, l.reads, l.change FROM plan_lists l
 WHERE (l.change, l.public_key) > (after_change, after_key) AND l.change <= (SELECT plan.lists FROM plan)
 ORDER BY l.change, l.public_key LIMIT most
$$;
SELECT hub.permit('lists_v1', 'edge');
