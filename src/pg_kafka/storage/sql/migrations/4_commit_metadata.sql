-- Version 4: text of clients in the journals has ␀ for NUL, ␛␀ for ␀ and ␛␛ for ␛ (storage/client_text.py). Until now a NUL
-- was refused, and the two symbols stood for themselves.

UPDATE kafka.offset_journal_0 SET metadata = regexp_replace(metadata, '[␀␛]', '␛\&', 'g') WHERE metadata ~ '[␀␛]';
UPDATE kafka.offset_journal_1 SET metadata = regexp_replace(metadata, '[␀␛]', '␛\&', 'g') WHERE metadata ~ '[␀␛]';
UPDATE kafka.group_journal_0 SET key = regexp_replace(key, '[␀␛]', '␛\&', 'g'), value = regexp_replace(value::text, '[␀␛]', '␛\&', 'g')::jsonb
WHERE key ~ '[␀␛]' OR value::text ~ '[␀␛]';
UPDATE kafka.group_journal_1 SET key = regexp_replace(key, '[␀␛]', '␛\&', 'g'), value = regexp_replace(value::text, '[␀␛]', '␛\&', 'g')::jsonb
WHERE key ~ '[␀␛]' OR value::text ~ '[␀␛]';
UPDATE kafka.transaction_journal_0 SET key = regexp_replace(key, '[␀␛]', '␛\&', 'g'), value = regexp_replace(value::text, '[␀␛]', '␛\&', 'g')::jsonb
WHERE key ~ '[␀␛]' OR value::text ~ '[␀␛]';
UPDATE kafka.transaction_journal_1 SET key = regexp_replace(key, '[␀␛]', '␛\&', 'g'), value = regexp_replace(value::text, '[␀␛]', '␛\&', 'g')::jsonb
WHERE key ~ '[␀␛]' OR value::text ~ '[␀␛]';

COMMENT ON COLUMN kafka.offset_journal_0.metadata IS 'With ␀ for NUL, ␛␀ for ␀ and ␛␛ for ␛, as all text of clients in the journals.';
COMMENT ON COLUMN kafka.offset_journal_1.metadata IS 'With ␀ for NUL, ␛␀ for ␀ and ␛␛ for ␛, as all text of clients in the journals.';
