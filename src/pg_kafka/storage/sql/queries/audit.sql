-- The audit log. Rows are added at the end and deleted from the front.

-- name: insert
-- $1 is an array of objects; age_ms is how long ago it happened, by a steady clock.
INSERT INTO kafka.audit_log (happened_at, event, via, principal, address, listener, application, resource, detail, succeeded, times)
SELECT clock_timestamp() - r.age_ms * interval '1 ms', r.event, 'kafka', r.principal, r.address, r.listener, r.application,
       r.resource, r.detail, r.succeeded, r.times
FROM jsonb_to_recordset($1::text::jsonb) AS r (age_ms bigint, n integer, event text, principal text, address text, listener text,
    application text, resource text, detail text, succeeded boolean, times bigint)
ORDER BY r.n;

-- name: trim
-- Up to a thousand of the oldest rows; how many have gone.
SELECT kafka.trim_audit($1, $2);
