-- What compaction leaves of a row of the log. Called by the broker; nobody else needs to.

CREATE OR REPLACE FUNCTION kafka.cut_row(
    kept integer[], keys bytea[], "values" bytea[], timestamps bigint[], offset_deltas integer[],
    header_ends integer[], header_keys bytea[], header_values bytea[], first_timestamp bigint,
    OUT cut_keys bytea[], OUT cut_values bytea[], OUT cut_timestamps bigint[], OUT cut_deltas integer[],
    OUT cut_header_ends integer[], OUT cut_header_keys bytea[], OUT cut_header_values bytea[],
    OUT cut_first_timestamp bigint, OUT cut_max_timestamp bigint, OUT cut_bytes bigint, OUT has_tombstone boolean)
-- In plpgsql an array is taken out of TOAST and apart once, and then each element costs the same. In plain SQL each element would
-- cost a walk through all before it.
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept_headers integer[];
BEGIN
    IF kept IS NULL THEN
        RETURN;
    END IF;
    IF keys IS NOT NULL THEN
        cut_keys := ARRAY(SELECT keys[i] FROM unnest(kept) WITH ORDINALITY AS u (i, n) ORDER BY n);
    END IF;
    cut_values := ARRAY(SELECT "values"[i] FROM unnest(kept) WITH ORDINALITY AS u (i, n) ORDER BY n);
    has_tombstone := array_position(cut_values, NULL) IS NOT NULL;
    cut_bytes := (SELECT coalesce(sum(octet_length(k)), 0) FROM unnest(cut_keys) AS k)
               + (SELECT coalesce(sum(octet_length(v)), 0) FROM unnest(cut_values) AS v);
    IF offset_deltas IS NOT NULL THEN
        cut_deltas := ARRAY(SELECT offset_deltas[i] FROM unnest(kept) WITH ORDINALITY AS u (i, n) ORDER BY n);
    ELSIF kept[cardinality(kept)] > cardinality(kept) THEN
        cut_deltas := ARRAY(SELECT i - 1 FROM unnest(kept) WITH ORDINALITY AS u (i, n) ORDER BY n);
    END IF;
    cut_first_timestamp := first_timestamp;
    cut_max_timestamp := first_timestamp;
    IF timestamps IS NOT NULL THEN
        cut_timestamps := ARRAY(SELECT timestamps[i] FROM unnest(kept) WITH ORDINALITY AS u (i, n) ORDER BY n);
        cut_first_timestamp := cut_timestamps[1];
        cut_max_timestamp := (SELECT max(t) FROM unnest(cut_timestamps) AS t);
    END IF;
    IF header_ends IS NOT NULL THEN
        SELECT array_agg(h ORDER BY n, h) FILTER (WHERE h IS NOT NULL) INTO kept_headers
        FROM unnest(kept) WITH ORDINALITY AS u (i, n)
        LEFT JOIN LATERAL generate_series(coalesce(header_ends[i - 1], 0) + 1, header_ends[i]) AS h ON true;
        IF kept_headers IS NOT NULL THEN
            cut_header_ends := ARRAY(
                SELECT sum(header_ends[i] - coalesce(header_ends[i - 1], 0)) OVER (ORDER BY n)
                FROM unnest(kept) WITH ORDINALITY AS u (i, n) ORDER BY n);
            cut_header_keys := ARRAY(SELECT header_keys[h] FROM unnest(kept_headers) WITH ORDINALITY AS u (h, n) ORDER BY n);
            cut_header_values := ARRAY(SELECT header_values[h] FROM unnest(kept_headers) WITH ORDINALITY AS u (h, n) ORDER BY n);
            cut_bytes := cut_bytes + (SELECT coalesce(sum(octet_length(k)), 0) FROM unnest(cut_header_keys) AS k)
                       + (SELECT coalesce(sum(octet_length(v)), 0) FROM unnest(cut_header_values) AS v);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.cut_row(integer[], bytea[], bytea[], bigint[], integer[], integer[], bytea[], bytea[], bigint) IS
    'The arrays of a row of kafka.log with the records at the given positions only, which count from 1. NULL for kept: nothing.';
