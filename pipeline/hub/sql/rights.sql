-- Applied last: what no line of `hub.permit` names may be called by the owner alone.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA hub FROM PUBLIC;

-- Logins of hosts need nothing of what PostgreSQL lets everybody do. What belongs to a superuser is taken by one only.
DO $$
BEGIN
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  IF to_regnamespace('public') IS NOT NULL THEN
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
  END IF;
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    REVOKE EXECUTE ON FUNCTION
      pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid), pg_catalog.lo_from_bytea(oid, bytea)
      FROM PUBLIC;
  END IF;
END $$;
