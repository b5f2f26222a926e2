-- The audit log: what SQL changes is written by triggers, in the transaction of the change.

CREATE OR REPLACE FUNCTION kafka.is_broker() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
-- Anybody may call a session "pg_kafka control"; who may write the log as well is the broker, or could do as it does.
RETURN current_setting('application_name') = 'pg_kafka control' AND has_table_privilege(session_user, 'kafka.log', 'INSERT');
COMMENT ON FUNCTION kafka.is_broker() IS
    'Is this the session by which a broker changes topics, settings and the like for its clients? The broker itself notes who has asked for it.';

CREATE OR REPLACE FUNCTION kafka.audit_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    IF kafka.is_broker() THEN
        RETURN NULL;
    END IF;
    -- Nothing here that may hold a secret: of users, names alone, and no value of a setting whose name speaks of one.
    IF NEW.what <> 'deleted' THEN
        said := CASE NEW.kind
            WHEN 'topic' THEN (SELECT format('partitions=%s configs=%s', t.partitions, t.configs) FROM kafka.topics t WHERE t.id = NEW.object_id)
            WHEN 'group config' THEN (SELECT g.configs::text FROM kafka.group_configs g WHERE g.group_id = NEW.name)
            WHEN 'client metrics' THEN (SELECT c.configs::text FROM kafka.client_metrics c WHERE c.name = NEW.name)
            WHEN 'setting' THEN (SELECT CASE WHEN NEW.name ~* 'password|secret|jaas|_key$' THEN '***' ELSE string_agg(CASE s.node_id WHEN 0 THEN s.value ELSE format('%s (node %s)', s.value, s.node_id) END,
                                                   ', ' ORDER BY s.node_id) END FROM kafka.settings s WHERE s.name = NEW.name)
            END;
    END IF;
    INSERT INTO kafka.audit_log (event, via, principal, address, application, resource, detail)
    VALUES (CASE NEW.kind WHEN 'log start' THEN 'records deleted' ELSE NEW.kind || ' ' || NEW.what END,
            'sql', session_user, host(inet_client_addr()), NEW.application,
            concat_ws(' ', CASE NEW.kind WHEN 'log start' THEN 'topic' WHEN 'group config' THEN 'group' ELSE NEW.kind END, NEW.name),
            left(coalesce(said, ''), 1000));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.audit_change() IS
    'Trigger of kafka.catalogue_changes: what SQL changes of topics, settings, users and the like is in kafka.audit_log.';

CREATE OR REPLACE TRIGGER audit AFTER INSERT ON kafka.catalogue_changes
FOR EACH ROW EXECUTE FUNCTION kafka.audit_change();

CREATE OR REPLACE FUNCTION kafka.audit_request() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO kafka.audit_log (event, via, principal, address, application, resource, detail)
    VALUES ('transaction aborted', 'sql', session_user, host(inet_client_addr()), current_setting('application_name'),
            'transactional id ' || NEW.transactional_id,
            format('asked for as %s: producer id %s, epoch %s', NEW.requested_by, NEW.producer_id, NEW.producer_epoch));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.audit_request() IS
    'Trigger of kafka.transaction_requests: who has asked for the end of a transaction is in kafka.audit_log.';

CREATE OR REPLACE TRIGGER audit AFTER INSERT ON kafka.transaction_requests
FOR EACH ROW EXECUTE FUNCTION kafka.audit_request();

CREATE OR REPLACE FUNCTION kafka.trim_audit(kept bigint, retention_ms bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest bigint := (SELECT max(a.entry) FROM kafka.audit_log a);
    gone bigint;
BEGIN
    WITH oldest AS (
        SELECT a.entry, a.happened_at FROM kafka.audit_log a ORDER BY a.entry LIMIT 1000
    )
    DELETE FROM kafka.audit_log d USING oldest o
    WHERE d.entry = o.entry AND o.entry <= newest - 1000
      AND (o.entry <= newest - kept OR (retention_ms >= 0 AND o.happened_at < clock_timestamp() - retention_ms * interval '1 ms'));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION kafka.trim_audit(bigint, bigint) IS
    'Delete up to 1000 of the oldest rows of kafka.audit_log that are beyond a number of rows or a time (ms, -1 for none); how many there were. The latest 1000 rows are always kept. Brokers call it.';
