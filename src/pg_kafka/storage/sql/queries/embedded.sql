-- What the embedded PostgreSQL needs once, when its data folder is new.

-- name: create_database
CREATE DATABASE {database};

-- name: is_in_recovery
SELECT pg_catalog.pg_is_in_recovery();

-- name: remember_password
-- ALTER ROLE takes no parameters: the verifier travels through a parameter of the session.
SELECT pg_catalog.set_config('pg_kafka.password', $1, false);

-- name: set_password
-- $1 of remember_password is a SCRAM verifier, so that no log ever holds the password itself.
DO $$
BEGIN
  EXECUTE pg_catalog.format('ALTER ROLE %I PASSWORD %L', current_user, pg_catalog.current_setting('pg_kafka.password'));
END
$$;
