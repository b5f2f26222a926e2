-- Small things that make records easier to read in SQL.

CREATE OR REPLACE FUNCTION kafka.as_text(bytes bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN strpos(encode(bytes, 'escape'), '\') = 0 THEN encode(bytes, 'escape')
    WHEN position('\x00'::bytea IN bytes) > 0 THEN NULL
    WHEN convert_from(bytes, 'LATIN1') ~ ('^([\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]'
        '|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}'
        '|\u00ed[\u0080-\u009f][\u0080-\u00bf]|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}'
        '|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$')
    THEN convert_from(bytes, 'UTF8')
END;
COMMENT ON FUNCTION kafka.as_text(bytea) IS
    'A key or value as text; NULL when it is not UTF-8, where convert_from() would end the query with an error.';

CREATE OR REPLACE FUNCTION kafka.as_json(bytes bytea) RETURNS jsonb
-- A subtransaction for each record costs 1 us less than asking pg_input_is_valid() first, which parses twice, stops at deep
-- nesting with an error, and is not there before PostgreSQL 16. No parallel worker may begin one.
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
BEGIN
    RETURN pg_catalog.convert_from(bytes, 'UTF8')::pg_catalog.jsonb;
EXCEPTION
    -- Not UTF-8, a NUL, not JSON, a number or a text that jsonb does not take; too deep or too large.
    WHEN data_exception OR program_limit_exceeded THEN
        RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.as_json(bytea) IS
    'A key or value as jsonb; NULL when it is no JSON that jsonb takes, where a cast would end the query with an error.';

CREATE OR REPLACE FUNCTION kafka.header_value(headers kafka.header[], name text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT h.value FROM unnest(headers) WITH ORDINALITY AS h (key, value, n) WHERE h.key = name ORDER BY h.n DESC LIMIT 1;
END;
COMMENT ON FUNCTION kafka.header_value(kafka.header[], text) IS 'Value of the last header with this name; NULL when there is none.';
