-- What SQL users see of transactions. Values of records are described where they are made: coordinator/transactions.py.

CREATE OR REPLACE VIEW kafka.transaction_records AS
SELECT j.entry, j.transactional_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (t.transactional_id, t.kind, t.key) t.*
      FROM (SELECT * FROM kafka.transaction_journal_0 UNION ALL SELECT * FROM kafka.transaction_journal_1) AS t
      ORDER BY t.transactional_id, t.kind, t.key, t.entry DESC) AS j
WHERE j.value IS NOT NULL;
COMMENT ON VIEW kafka.transaction_records IS
    'The latest records of transactional ids as the broker keeps them; their values may change with any version.';
