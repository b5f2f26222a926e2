-- Version 5: where records are not compressed, a row of which two fit into a page stays in it whole. Rows that are there stay as
-- they are. Locks: SHARE UPDATE EXCLUSIVE on those segments.

DO $do$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN SELECT to_regclass(format('kafka.log_%s_%s', s.series, s.segment)) FROM kafka.segments s WHERE s.compression = 'none' LOOP
        IF leaf IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s SET (toast_tuple_target = 4080)', leaf);
        END IF;
    END LOOP;
END
$do$;
