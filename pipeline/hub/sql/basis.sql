-- What every migration and function needs; applied before all others, each time. The owner of the schema runs it.

CREATE SCHEMA IF NOT EXISTS hub;

CREATE TABLE IF NOT EXISTS hub.migrations (name text PRIMARY KEY, applied_at bigint NOT NULL);

-- The database's clock in ms: hosts may disagree about the time, functions must not.
CREATE OR REPLACE FUNCTION hub.now_ms() RETURNS bigint
  LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- Name of the group role of an audience, `edge` or `home`, in this database: roles belong to the whole cluster.
CREATE OR REPLACE FUNCTION hub.group_of(audience text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT current_database() || '_' || audience $$;

-- Let the audiences call the function of this name, whatever its arguments, and none else.
CREATE OR REPLACE FUNCTION hub.permit(function_name text, VARIADIC audiences text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
  AS $$
DECLARE
  found regprocedure;
  audience text;
BEGIN
  FOR found IN
    SELECT p.oid::regprocedure FROM pg_proc p
     WHERE p.pronamespace = 'hub'::regnamespace AND p.proname = function_name
  LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', found);
    FOREACH audience IN ARRAY audiences LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', found, hub.group_of(audience));
    END LOOP;
  END LOOP;
END $$;
