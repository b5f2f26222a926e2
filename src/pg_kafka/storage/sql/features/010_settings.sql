-- Broker settings in the database.

CREATE OR REPLACE FUNCTION kafka.set_config(name text, value text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM kafka.setting_names k WHERE k.name = set_config.name) THEN
        RAISE EXCEPTION 'unknown setting "%"', name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The names are in kafka.setting_names.';
    END IF;
    IF value IS NULL THEN
        DELETE FROM kafka.settings s WHERE s.name = set_config.name;
    ELSE
        INSERT INTO kafka.settings AS s (name, value) VALUES (set_config.name, set_config.value)
        ON CONFLICT ON CONSTRAINT settings_pkey DO UPDATE SET value = EXCLUDED.value;
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_config(text, text) IS
    'Set a broker setting for all brokers of this database, effective when they start; NULL removes it. Refuses names that no broker knows.';
