-- Version 5: requests that a broker which waits passes on to the leader.
-- Locks: none that anybody waits for.

CREATE UNLOGGED TABLE kafka.forwarded_requests (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asked_by     integer  NOT NULL,
    asked_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    principal    text     NOT NULL,
    client_host  text     NOT NULL,
    client_port  integer  NOT NULL,
    client_id    text,
    listener     text     NOT NULL,
    api_key      smallint NOT NULL,
    api_version  smallint NOT NULL,
    request      bytea    NOT NULL,
    taken_at     timestamptz,
    answered_at  timestamptz,
    answer       bytea
);
COMMENT ON TABLE kafka.forwarded_requests IS
    'Requests of clients that a waiting broker passes on to the leader, and their answers. Rows live for seconds.';
COMMENT ON COLUMN kafka.forwarded_requests.asked_by IS 'Node id of the broker that waits.';
COMMENT ON COLUMN kafka.forwarded_requests.principal IS 'Who the client is, by that broker''s proof: the leader decides by it what the client may do.';
COMMENT ON COLUMN kafka.forwarded_requests.request IS 'The request in Kafka''s format, without its header.';
COMMENT ON COLUMN kafka.forwarded_requests.answer IS 'The same of the answer; NULL once it is answered: the client''s connection is closed.';
