-- Quotas by SQL.

CREATE OR REPLACE VIEW kafka.quotas AS
SELECT q.entity ->> 'user' AS user_name, q.entity ->> 'client-id' AS client_id, q.entity ->> 'ip' AS ip, q.name, q.value
FROM kafka.client_quotas q;
COMMENT ON VIEW kafka.quotas IS 'How much clients may take. kafka.set_client_quota() changes one.';
COMMENT ON COLUMN kafka.quotas.user_name IS 'NULL: the quota does not ask for the user. Empty: all users without one of their own. So are client_id and ip.';
COMMENT ON COLUMN kafka.quotas.name IS
    'producer_byte_rate and consumer_byte_rate: bytes a second. request_percentage: of one processor. controller_mutation_rate: partitions created or deleted a second. connection_creation_rate, of an ip: connections a second.';

CREATE OR REPLACE FUNCTION kafka.set_client_quota(
    name text, value double precision, user_name text DEFAULT NULL, client_id text DEFAULT NULL, ip text DEFAULT NULL
) RETURNS double precision
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whom jsonb := jsonb_strip_nulls(jsonb_build_object('user', user_name, 'client-id', client_id, 'ip', ip));
    greatest_value double precision;
    address inet;
BEGIN
    IF whom = '{}' THEN
        RAISE EXCEPTION 'a quota needs a user_name, a client_id, both, or an ip'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'An empty text means all that have no quota of their own.';
    ELSIF whom ? 'ip' AND whom ?| ARRAY['user', 'client-id'] THEN
        RAISE EXCEPTION 'an ip cannot be combined with a user or a client id' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF greatest(octet_length(user_name), octet_length(client_id)) > 1000 THEN
        RAISE EXCEPTION 'a name of a quota has no more than 1000 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF ip <> '' THEN
        BEGIN
            address := ip::inet;
        EXCEPTION WHEN invalid_text_representation THEN
            address := NULL;
        END;
        IF address IS NULL OR position('/' IN ip) > 0 THEN
            RAISE EXCEPTION '% is not an address', quote_literal(left(ip, 100)) USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    greatest_value := CASE WHEN whom ? 'ip' THEN CASE WHEN name = 'connection_creation_rate' THEN 2147483647 END
                           ELSE CASE WHEN name IN ('producer_byte_rate', 'consumer_byte_rate') THEN 9223372036854775808
                                     WHEN name IN ('request_percentage', 'controller_mutation_rate') THEN 1.7976931348623157e308 END END;
    IF greatest_value IS NULL THEN
        RAISE EXCEPTION 'there is no quota % of %', coalesce(quote_literal(name), 'NULL'), CASE WHEN whom ? 'ip' THEN 'an ip' ELSE 'a client' END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = CASE WHEN whom ? 'ip' THEN 'There is connection_creation_rate.' ELSE
                         'There are producer_byte_rate, consumer_byte_rate, request_percentage and controller_mutation_rate.' END;
    END IF;
    IF value IS NULL THEN
        DELETE FROM kafka.client_quotas q WHERE q.entity = whom AND q.name = set_client_quota.name;
        RETURN NULL;
    END IF;
    IF value = 'NaN' OR value <= 0 OR value > greatest_value OR (greatest_value < 1e300 AND value <> trunc(value)) THEN
        RAISE EXCEPTION '% must be a % above 0, no more than %, not %',
            name, CASE WHEN greatest_value < 1e300 THEN 'whole number' ELSE 'number' END, greatest_value, value
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL removes the quota.';
    END IF;
    INSERT INTO kafka.client_quotas AS q (entity, name, value) VALUES (whom, set_client_quota.name, set_client_quota.value)
    ON CONFLICT ON CONSTRAINT client_quotas_pkey DO UPDATE SET value = EXCLUDED.value WHERE q.value <> EXCLUDED.value;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_client_quota(text, double precision, text, text, text) IS
    'Set a quota of a user, a client id, both, or an address (ip); an empty name is the default for all without one of their own. NULL for the value removes it. Running brokers follow within a second.';
