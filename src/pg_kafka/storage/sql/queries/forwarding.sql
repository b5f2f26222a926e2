-- Requests that a broker which waits passes on to the leader.

-- name: ask
WITH asked AS (
    INSERT INTO kafka.forwarded_requests
        (asked_by, principal, client_host, client_port, client_id, listener, api_key, api_version, request)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id
)
SELECT id, pg_notify('pg_kafka_forwarded', '') FROM asked;

-- name: answered
-- Those of $1 that have an answer, which go with it.
DELETE FROM kafka.forwarded_requests WHERE id = ANY ($1::uuid[]) AND answered_at IS NOT NULL RETURNING id, answer;

-- name: take
-- The oldest $1 that nobody has taken. Several leaders one after the other may look: each request is taken once.
UPDATE kafka.forwarded_requests r SET taken_at = clock_timestamp()
FROM (SELECT id FROM kafka.forwarded_requests WHERE taken_at IS NULL ORDER BY asked_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS t
WHERE r.id = t.id
RETURNING r.id, r.principal, r.client_host, r.client_port, r.client_id, r.listener, r.api_key, r.api_version, r.request;

-- name: answer
WITH answered AS (
    UPDATE kafka.forwarded_requests SET answered_at = clock_timestamp(), answer = $2 WHERE id = $1 RETURNING id
)
SELECT pg_notify('pg_kafka_answered', '') FROM answered;

-- name: forget
-- What nobody waits for any more: older than $1 seconds.
DELETE FROM kafka.forwarded_requests WHERE asked_at < clock_timestamp() - make_interval(secs => $1);
