-- Transactions: what is loaded at take-over, and what operators have asked for. Their journal is written by the statement
-- copy_transactions of groups.sql.

-- name: load_transactions
SELECT transactional_id, kind, key, value::text AS value FROM kafka.transaction_records ORDER BY entry;

-- name: open_requests
-- What kafka.abort_transaction() has asked for and nobody has answered; index transaction_requests_open.
SELECT id, transactional_id, producer_id, producer_epoch, action, requested_by::text AS requested_by
FROM kafka.transaction_requests WHERE done_at IS NULL ORDER BY id;

-- name: close_request
-- $2 is why it was not done, or NULL.
UPDATE kafka.transaction_requests SET done_at = clock_timestamp(), error = $2 WHERE id = $1 AND done_at IS NULL;
