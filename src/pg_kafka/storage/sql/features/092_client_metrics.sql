-- Subscriptions to metrics of clients by SQL.

CREATE OR REPLACE FUNCTION kafka.set_client_metrics(subscription text, name text, value text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(subscription, '') = '' OR octet_length(subscription) > 1000 THEN
        RAISE EXCEPTION 'a subscription needs a name, of 1000 bytes at most' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF value IS NULL THEN
        PERFORM FROM kafka.client_metrics c WHERE c.name = subscription FOR UPDATE;
        DELETE FROM kafka.client_metrics c WHERE c.name = subscription AND c.configs - set_client_metrics.name = '{}';
        UPDATE kafka.client_metrics c SET configs = c.configs - set_client_metrics.name
        WHERE c.name = subscription AND c.configs ? set_client_metrics.name;
    ELSE
        PERFORM kafka.refuse_config('client metrics', name, value);
        INSERT INTO kafka.client_metrics AS c (name, configs) VALUES (subscription, jsonb_build_object(name, value))
        ON CONFLICT ON CONSTRAINT client_metrics_pkey DO UPDATE SET configs = c.configs || EXCLUDED.configs
        WHERE NOT c.configs @> EXCLUDED.configs;
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_client_metrics(text, text, text) IS
    'Set metrics, interval.ms or match of a subscription to metrics of clients; NULL removes it, and with the last one the subscription. Running brokers follow within a second. Whether an expression of match is one, the broker finds out: its log says which subscription it does not use.';
