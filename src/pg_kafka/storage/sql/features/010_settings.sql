-- Broker settings in the database.

CREATE OR REPLACE FUNCTION kafka.set_config(name text, value text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text;
BEGIN
    -- Kafka's name, num.partitions, means the same as pg_kafka.num_partitions.
    SELECT k.name INTO known FROM kafka.setting_names k
    WHERE k.name = 'pg_kafka.' || translate(regexp_replace(set_config.name, '^pg_kafka[.]', ''), '.', '_');
    IF known IS NULL THEN
        RAISE EXCEPTION 'unknown setting "%"', name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The names are in kafka.setting_names.';
    END IF;
    IF value IS NULL THEN
        DELETE FROM kafka.settings s WHERE s.name = known;
    ELSE
        INSERT INTO kafka.settings AS s (name, value) VALUES (known, set_config.value)
        ON CONFLICT ON CONSTRAINT settings_pkey DO UPDATE SET value = EXCLUDED.value;
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_config(text, text) IS
    'Set a broker setting for all brokers of this database, effective when they start; NULL removes it. Takes Kafka''s names and those with pg_kafka., and refuses what no broker knows.';
