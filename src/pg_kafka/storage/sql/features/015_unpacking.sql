-- Compressed batches that are kept as they came, and SQL: PostgreSQL cannot take them apart, so a query waits until the broker has.
--
-- The view of a topic has the condition kafka.is_unpacked(17). That function is labelled IMMUTABLE and its argument is a constant, so
-- the planner calls it and puts its answer, which is always true, in its place: before the query's snapshot is taken, once for each
-- plan, and never for a row. It is no lie that could harm: there is no other answer. PARALLEL SAFE for the same reason: it is gone
-- before any worker starts.
--
-- Who has to wait says so by two locks, which last until the end of the transaction and are seen by others at once: one on the table
-- kafka.unpacking_asked, in a mode that nobody can take who may not write it, and an advisory lock (1885825895, topic), 0 for all topics.
--
-- Everybody may execute is_unpacked() and refuse_packed(): PostgreSQL asks for that from whoever reads a view with them. They read no
-- record and return none. What they do for a stranger who calls them by hand is to ask.

CREATE OR REPLACE FUNCTION kafka.ask_for_rows(topic_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE kafka.unpacking_asked IN ROW SHARE MODE;
    -- Not to be had when a stranger holds it in exclusive mode. Then the first lock alone asks for all topics.
    PERFORM pg_try_advisory_xact_lock_shared(1885825895, (coalesce(topic_id, 0) & 2147483647)::integer);
END
$$;
COMMENT ON FUNCTION kafka.ask_for_rows(bigint) IS
    'Let the broker see that this transaction reads a topic, or all of them for NULL. Seen while the transaction lasts.';

CREATE OR REPLACE FUNCTION kafka.await_rows(topic_id bigint) RETURNS void
-- VOLATILE: in READ COMMITTED each statement of it sees what has been committed meanwhile.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    keeps_snapshot constant boolean := current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
    waits_since constant timestamptz := clock_timestamp();
    what constant text := coalesce(format('topic "%s"', (SELECT t.name FROM kafka.topics t WHERE t.id = topic_id)), 'some topics');
    hint constant text := coalesce(
        (SELECT format('SELECT kafka.unpack(%L)', t.name) FROM kafka.topics t WHERE t.id = topic_id), 'SELECT kafka.unpack(name)');
    is_told boolean := false;
    seen_at timestamptz := waits_since;  -- a broker that could unpack
    moved_at timestamptz := waits_since;  -- less was left than before
    looked_at timestamptz := waits_since;
    extents_left bigint;
    offsets_left numeric;
    progress numeric;
BEGIN
    IF NOT EXISTS (SELECT FROM kafka.topics t WHERE t.keeps_batches AND (topic_id IS NULL OR t.id = topic_id)) THEN
        RETURN;
    END IF;
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION '% has compressed batches that are not unpacked', what
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('This server is a standby. Run "%s" on the primary.', hint);
    END IF;
    PERFORM kafka.ask_for_rows(topic_id);
    LOOP
        IF NOT EXISTS (SELECT FROM kafka.topics t WHERE t.keeps_batches AND (topic_id IS NULL OR t.id = topic_id)) THEN
            RETURN;
        END IF;
        -- Such a transaction never sees what becomes of its wish. The broker looks each second.
        IF keeps_snapshot AND clock_timestamp() > waits_since + interval '2.5 seconds' THEN
            RAISE EXCEPTION '% is unpacked now, and this transaction has an older snapshot', what
                USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
        END IF;
        IF clock_timestamp() >= looked_at THEN
            looked_at := clock_timestamp() + interval '1 second';
            PERFORM pg_stat_clear_snapshot();
            IF EXISTS (SELECT FROM pg_stat_activity a
                       WHERE a.datname = current_database() AND a.application_name = 'pg_kafka layouts') THEN
                seen_at := clock_timestamp();
            ELSIF clock_timestamp() > seen_at + interval '10 seconds'
                  OR NOT EXISTS (SELECT FROM kafka.brokers b WHERE b.status = 'live') THEN
                RAISE EXCEPTION '% has compressed batches that are not unpacked, and no broker is there to do it', what
                    USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Start pg-kafka with this database.';
            END IF;
            SELECT count(*), sum(e.packed_from) INTO extents_left, offsets_left
            FROM kafka.extents e JOIN kafka.topics t ON t.id = e.topic
            WHERE e.packed_from IS NOT NULL AND (topic_id IS NULL OR t.id = topic_id);
            IF progress IS DISTINCT FROM coalesce(offsets_left, 0) - 1e20 * extents_left THEN
                progress := coalesce(offsets_left, 0) - 1e20 * extents_left;
                moved_at := clock_timestamp();
            ELSIF clock_timestamp() > moved_at + interval '60 seconds' THEN
                RAISE EXCEPTION '% has compressed batches that are not unpacked, and the broker does not get on with it', what
                    USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'The broker''s log says why.';
            END IF;
            IF NOT is_told AND clock_timestamp() > waits_since + interval '1 second' THEN
                is_told := true;
                RAISE NOTICE '% has compressed batches, which the broker unpacks now: % segments of partitions are left',
                    what, extents_left;
            END IF;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.await_rows(bigint) IS
    'Have the broker unpack the batches of a topic, or of all for NULL, and wait for it. See kafka.unpack().';

CREATE OR REPLACE FUNCTION kafka.is_unpacked(topic_id bigint) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic record;
BEGIN
    SELECT t.keeps_batches, t.sql_asked_at INTO topic FROM kafka.topics t WHERE t.id = topic_id;
    IF topic.keeps_batches THEN
        PERFORM kafka.await_rows(topic_id);
    ELSIF topic.sql_asked_at IS NOT NULL THEN
        -- With storage.layout = batches, the broker keeps batches again when nobody has been seen for a while.
        PERFORM kafka.ask_for_rows(topic_id);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION kafka.is_unpacked(bigint) IS
    'True, once all batches of the topic are unpacked into rows. Called by the planner: see the views of topics.';

CREATE OR REPLACE FUNCTION kafka.are_unpacked() RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM kafka.topics t WHERE t.keeps_batches) THEN
        PERFORM kafka.await_rows(NULL);
    ELSE
        PERFORM kafka.ask_for_rows(NULL);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION kafka.are_unpacked() IS 'As kafka.is_unpacked(), of all topics: see kafka.messages.';

CREATE OR REPLACE FUNCTION kafka.refuse_packed(topic_id bigint) RETURNS bytea[]
-- For a row that was packed when the statement took its snapshot. The planner had no say: the plan is an older one, or the snapshot
-- is older than the plan, as with COPY (SELECT ...) and cursors.
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM kafka.await_rows(topic_id);
    RAISE EXCEPTION 'topic "%" was unpacked while this statement ran, which cannot see that',
            (SELECT t.name FROM kafka.topics t WHERE t.id = topic_id)
        USING ERRCODE = 'serialization_failure', HINT = 'Run it again. SELECT kafka.unpack(topic) beforehand avoids this.';
END
$$;
COMMENT ON FUNCTION kafka.refuse_packed(bigint) IS
    'What views call instead of showing nothing for a row whose batches are not unpacked: waits until they are, and asks to run the statement again.';

CREATE OR REPLACE FUNCTION kafka.unpack(topic text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic_id bigint;
BEGIN
    SELECT t.id INTO topic_id FROM kafka.topics t WHERE t.name = unpack.topic;
    IF topic_id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'undefined_object';
    END IF;
    PERFORM kafka.await_rows(topic_id);
    RETURN true;
END
$$;
COMMENT ON FUNCTION kafka.unpack(text) IS
    'Have the broker unpack the compressed batches of a topic, so that SQL can read them; returns true when it is done. Queries do it by themselves; statements that cannot wait for it (COPY (SELECT ...), cursors, standbys) are spared an error.';
