-- Consumer groups that are driven by SQL: what kafka.poll() and kafka.seek() are made of. Tables: schema/102_sql_groups.sql.
--
-- Who reads a partition holds an advisory lock until the end of the transaction; others skip it. After the lock comes the look at the
-- latest commit, then the next commit, whose number is one more. In READ COMMITTED that look sees what the last holder of the lock
-- has committed. A transaction that keeps an older snapshot does not, gives its commit a number that is taken, and fails: that is the
-- unique index of the tables. Where the other commit is in another table by now, the turn of kafka.sql_commit_turns tells.

CREATE OR REPLACE FUNCTION kafka.sql_partition_lock(group_id text, topic_id bigint, partition_id integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(topic_id::text || '/' || partition_id::text || '/' || group_id, 1885825897);
COMMENT ON FUNCTION kafka.sql_partition_lock(text, bigint, integer) IS
    'The advisory lock of whoever consumes a partition for a group. Two partitions may share one, and then are consumed one after the other.';

CREATE OR REPLACE FUNCTION kafka.sql_group_lock(group_id text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtext(group_id);
COMMENT ON FUNCTION kafka.sql_group_lock(text) IS
    'The advisory lock (1885825897, this) is held in shared mode by transactions that have polled a group. Whoever removes a group takes it in exclusive mode.';

CREATE OR REPLACE FUNCTION kafka.readable_topics(names text[]) RETURNS TABLE (id bigint, name text, partitions integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    -- In whose name the caller's statement runs; current_user is the owner in here.
    asking constant text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    shown_by regclass;
    wanted record;
BEGIN
    FOR wanted IN
        SELECT w.name AS wanted_name, t.id, t.name, t.partitions, t.view_name
        FROM (SELECT DISTINCT u.name FROM unnest(names) AS u (name)) AS w LEFT JOIN kafka.topics t ON t.name = w.name
    LOOP
        IF wanted.id IS NULL THEN
            RAISE EXCEPTION 'topic "%" does not exist', wanted.wanted_name
                USING ERRCODE = 'KF001', HINT = 'SELECT name FROM kafka.topics tells which ones do.';
        END IF;
        shown_by := to_regclass('topics.' || quote_ident(wanted.view_name));
        IF shown_by IS NULL AND wanted.name !~ '^__|-(changelog|repartition)$'
           AND NOT has_table_privilege(asking, 'kafka.messages', 'SELECT') THEN
            -- The janitor makes it a moment after the topic. Default privileges may let the role read it.
            shown_by := to_regclass('topics.' || quote_ident(kafka.create_topic_view(wanted.id)));
        END IF;
        shown_by := coalesce(shown_by, 'kafka.messages'::regclass);
        IF NOT has_table_privilege(asking, shown_by, 'SELECT') THEN
            RAISE EXCEPTION 'permission denied for view %', shown_by
                USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT SELECT ON %s TO %I', shown_by, asking);
        END IF;
        RETURN QUERY SELECT wanted.id, wanted.name, wanted.partitions;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.readable_topics(text[]) IS
    'Part of kafka.poll() and kafka.seek(): topics by their names, each once, or an error when one does not exist or the caller may not read it.';

CREATE OR REPLACE FUNCTION kafka.claim_sql_group(group_id text, waits boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    claimed bigint;
    members bigint;
BEGIN
    IF octet_length(claim_sql_group.group_id) NOT BETWEEN 1 AND 2000 THEN
        RAISE EXCEPTION 'a group id has 1 to 2000 bytes, not %', octet_length(claim_sql_group.group_id)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the group a name, such as ''billing''.';
    END IF;
    -- Another session may be about to claim it, in a transaction that stays open.
    IF waits THEN
        PERFORM pg_advisory_xact_lock(kafka.sql_partition_lock(claim_sql_group.group_id, -1, -1));
    ELSIF NOT pg_try_advisory_xact_lock(kafka.sql_partition_lock(claim_sql_group.group_id, -1, -1)) THEN
        RETURN NULL;
    END IF;
    SELECT sum(CASE r.kind WHEN 'member' THEN 1 ELSE jsonb_array_length(r.value -> 'members') END) INTO members
    FROM kafka.group_records r
    WHERE r.group_id = claim_sql_group.group_id
      AND (r.kind = 'member' OR r.kind = 'classic' AND jsonb_typeof(r.value -> 'members') = 'array');
    IF members > 0 THEN
        RAISE EXCEPTION 'group "%" is driven by Kafka clients: it has % members', claim_sql_group.group_id, members
            USING ERRCODE = 'KF010',
                  HINT = 'Stop its consumers, or poll with a group id of your own. kafka.group_members tells who they are.';
    END IF;
    INSERT INTO kafka.sql_groups AS g (group_id, created_by)
    VALUES (claim_sql_group.group_id, CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END)
    ON CONFLICT DO NOTHING RETURNING g.number INTO claimed;
    IF claimed IS NULL THEN
        SELECT g.number INTO claimed FROM kafka.sql_groups g WHERE g.group_id = claim_sql_group.group_id;
    END IF;
    RETURN claimed;
END
$$;
COMMENT ON FUNCTION kafka.claim_sql_group(text, boolean) IS
    'Part of kafka.poll() and kafka.seek(): have a group driven by SQL from now on; its number, or NULL when another transaction is about to do that and this one does not wait. KF010 when it has members.';

-- Functions that read or write the tables of commits: each statement names one table, so that the others are neither locked nor planned.
DO $do$
DECLARE
    reading text := '';
    writing text := '';
BEGIN
    FOR n IN 0..3 LOOP
        reading := reading || format($part$
    IF %1$s = ANY (counting) THEN
        RETURN QUERY
        SELECT w.n, c.commit_number, c.next_offset
        FROM unnest(topic_ids, partition_ids) WITH ORDINALITY AS w (topic_id, partition_id, n)
        CROSS JOIN LATERAL (SELECT s.commit_number, s.next_offset FROM kafka.sql_commits_%1$s s
                            WHERE s.group_number = sql_positions.group_number
                              AND s.topic_id = w.topic_id AND s.partition_id = w.partition_id
                            ORDER BY s.commit_number DESC LIMIT 1) AS c;
    END IF;$part$, n);
        writing := writing || format($part$
    %2$s active = %1$s THEN
        INSERT INTO kafka.sql_commits_%1$s (group_number, topic_id, partition_id, commit_number, next_offset)
        SELECT add_sql_commit.group_number, add_sql_commit.topic_id, add_sql_commit.partition_id,
               add_sql_commit.commit_number, add_sql_commit.next_offset
        -- The table is locked before the statement takes its snapshot. So either this sees that the tables have turned, or whoever turns
        -- them waits for this transaction before copying.
        FROM kafka.sql_commit_state s
        WHERE s.turn = add_sql_commit.turn AND (NOT keeps_snapshot OR (SELECT q.last_value FROM kafka.sql_commit_turns q) = add_sql_commit.turn)
        ON CONFLICT DO NOTHING;$part$, n, CASE n WHEN 0 THEN 'IF' ELSE 'ELSIF' END);
    END LOOP;

    EXECUTE format($create$
CREATE OR REPLACE FUNCTION kafka.sql_positions(group_number bigint, topic_ids bigint[], partition_ids integer[], counting smallint[])
RETURNS TABLE (n bigint, commit_number bigint, next_offset bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
BEGIN%s
END
$$ $create$, reading);

    EXECUTE format($create$
CREATE OR REPLACE FUNCTION kafka.add_sql_commit(
    group_number bigint, topic_id bigint, partition_id integer, commit_number bigint, next_offset bigint, active smallint, turn bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    keeps_snapshot constant boolean := current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
BEGIN%s
    END IF;
    IF FOUND THEN
        RETURN true;
    ELSIF keeps_snapshot THEN
        RAISE EXCEPTION 'the offsets of this group have moved since this transaction took its snapshot'
            USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
    END IF;
    RETURN false;
END
$$ $create$, writing);
END
$do$;
COMMENT ON FUNCTION kafka.sql_positions(bigint, bigint[], integer[], smallint[]) IS
    'The latest commits of partitions in each of the given tables: n is the position in the arrays. The highest commit_number of an n counts.';
COMMENT ON FUNCTION kafka.add_sql_commit(bigint, bigint, integer, bigint, bigint, smallint, bigint) IS
    'Add a commit to the active table; false when the tables have turned or the number is taken. An error that asks to run the transaction again where that cannot be seen.';

CREATE OR REPLACE FUNCTION kafka.sql_commit(group_number bigint, topic_id bigint, partition_id integer, commit_number bigint, next_offset bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state record;
    latest bigint;
BEGIN
    FOR attempt IN 1..10 LOOP
        SELECT s.turn, s.active, s.counting INTO state FROM kafka.sql_commit_state s;
        SELECT coalesce(max(p.commit_number), 0) INTO latest
        FROM kafka.sql_positions(sql_commit.group_number, ARRAY[sql_commit.topic_id], ARRAY[sql_commit.partition_id], state.counting) p;
        IF latest = sql_commit.commit_number - 1
           AND kafka.add_sql_commit(sql_commit.group_number, sql_commit.topic_id, sql_commit.partition_id, sql_commit.commit_number,
                                    sql_commit.next_offset, state.active, state.turn) THEN
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the offsets of this group have moved while they were read'
        USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
END
$$;
COMMENT ON FUNCTION kafka.sql_commit(bigint, bigint, integer, bigint, bigint) IS
    'Add a commit, for a holder of the partition''s lock: commit_number is one more than that of the commit that was gone by.';

CREATE OR REPLACE FUNCTION kafka.last_stable_offset(topic_id bigint, partition integer) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN least(kafka.end_offset(topic_id, last_stable_offset.partition), (
        SELECT min(kafka.first_open_offset(last_stable_offset.topic_id, last_stable_offset.partition,
                                           (r.value ->> 'producer_id')::bigint, (x.value ->> 2)::bigint))
        FROM kafka.transaction_records r, jsonb_array_elements(r.value -> 'partitions') AS x (value)
        WHERE r.kind = 'transaction' AND r.value ->> 'state' IN ('Ongoing', 'PrepareCommit', 'PrepareAbort')
          AND (x.value ->> 0)::bigint = last_stable_offset.topic_id AND (x.value ->> 1)::integer = last_stable_offset.partition));
END
$$;
COMMENT ON FUNCTION kafka.last_stable_offset(bigint, integer) IS
    'Up to where a partition can be read by consumers that do not read open transactions: its end, or where its first open transaction begins.';

CREATE OR REPLACE FUNCTION kafka.begin_sql_topic(
    group_id text, group_number bigint, topic_id bigint, topic_name text, partitions integer, start text, waits boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    place record;
    begins_at bigint;
    ends_at bigint;
BEGIN
    IF waits THEN
        PERFORM pg_advisory_xact_lock(kafka.sql_partition_lock(group_id, topic_id, -1));
    ELSIF NOT pg_try_advisory_xact_lock(kafka.sql_partition_lock(group_id, topic_id, -1)) THEN
        RETURN false;
    END IF;
    INSERT INTO kafka.sql_group_topics (group_number, topic_id) VALUES (begin_sql_topic.group_number, begin_sql_topic.topic_id)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    FOR place IN
        SELECT p.partition_id, coalesce(s.log_start_offset, 0) AS log_start,
               -- Where Kafka's clients were with it. The journal has the group's id as it is.
               (SELECT c.committed_offset FROM kafka.client_offsets c
                WHERE c.group_id = begin_sql_topic.group_id AND c.topic_id = begin_sql_topic.topic_id
                  AND c.partition_id = p.partition_id) AS known
        FROM generate_series(0, partitions - 1) AS p (partition_id)
        LEFT JOIN kafka.log_starts s ON s.topic = begin_sql_topic.topic_id AND s.partition = p.partition_id
    LOOP
        begins_at := place.known;
        IF begins_at IS NOT NULL AND begins_at <> place.log_start THEN
            ends_at := kafka.end_offset(begin_sql_topic.topic_id, place.partition_id);
            IF begins_at NOT BETWEEN place.log_start AND greatest(ends_at, place.log_start) THEN
                begins_at := NULL;
            END IF;
        END IF;
        IF begins_at IS NULL THEN
            begins_at := CASE start WHEN 'earliest' THEN place.log_start
                                    WHEN 'latest' THEN greatest(kafka.last_stable_offset(begin_sql_topic.topic_id, place.partition_id), place.log_start) END;
            IF begins_at IS NULL THEN
                RAISE EXCEPTION 'group "%" has no offset in partition % of topic "%"', group_id, place.partition_id, topic_name
                    USING ERRCODE = 'KF013', HINT = format('SELECT * FROM kafka.seek(%L, %L, ''earliest'') gives it one.', group_id, topic_name);
            END IF;
        END IF;
        PERFORM kafka.sql_commit(begin_sql_topic.group_number, begin_sql_topic.topic_id, place.partition_id, 1, begins_at);
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION kafka.begin_sql_topic(text, bigint, bigint, text, integer, text, boolean) IS
    'Part of kafka.poll() and kafka.seek(): give a group its first offsets in a topic, each that of the group''s Kafka clients where they have committed one. False when another transaction is about to do that and this one does not wait.';

CREATE OR REPLACE FUNCTION kafka.delete_sql_group(group_id text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(1885825897, kafka.sql_group_lock(delete_sql_group.group_id)) THEN
        RAISE EXCEPTION 'group "%" is polled at the moment', delete_sql_group.group_id
            USING ERRCODE = 'object_in_use', HINT = 'Its consumers have to end their transactions first.';
    END IF;
    DELETE FROM kafka.sql_groups g WHERE g.group_id = delete_sql_group.group_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A transaction with an older snapshot would still see the group.
    PERFORM kafka.turn_sql_commits();
    RETURN true;
END
$$;
COMMENT ON FUNCTION kafka.delete_sql_group(text) IS
    'Forget a group that is driven by SQL, with its offsets; false when there is none. An error while a transaction that has polled it is open.';

CREATE OR REPLACE FUNCTION kafka.turn_sql_commits() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reached bigint;
BEGIN
    -- The state's row is locked until the end of the transaction: one at a time.
    UPDATE kafka.sql_commit_state s SET turn = greatest(s.turn, (SELECT q.last_value FROM kafka.sql_commit_turns q)) + 1
    RETURNING s.turn INTO reached;
    PERFORM setval('kafka.sql_commit_turns', reached);
    RETURN reached;
END
$$;
COMMENT ON FUNCTION kafka.turn_sql_commits() IS
    'Let all transactions with an older snapshot know that the commits of groups driven by SQL are not what they see. The last thing before a COMMIT: if that fails, such transactions fail until the next turn.';

CREATE OR REPLACE FUNCTION kafka.switch_sql_commits() RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    following smallint;
BEGIN
    SELECT n INTO following FROM kafka.sql_commit_state s, generate_series(0, 3) AS n
    WHERE NOT n = ANY (s.counting) AND s.copied_at[n + 1] IS NULL ORDER BY n LIMIT 1;
    IF following IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE kafka.sql_commit_state s SET active = following, counting = s.counting || following;
    PERFORM kafka.turn_sql_commits();
    RETURN following;
END
$$;
COMMENT ON FUNCTION kafka.switch_sql_commits() IS
    'Have commits go to an empty table from now on; its number, or NULL when none is empty. One transaction.';

CREATE OR REPLACE FUNCTION kafka.copy_sql_commits(retired smallint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state record;
    copied bigint;
BEGIN
    SELECT s.active, s.counting INTO state FROM kafka.sql_commit_state s FOR UPDATE;
    IF retired = state.active OR NOT retired = ANY (state.counting) THEN
        RETURN NULL;
    END IF;
    -- Not while a transaction is open that has written to it.
    EXECUTE format('LOCK TABLE kafka.sql_commits_%s IN SHARE MODE NOWAIT', retired);
    EXECUTE format($copy$
        INSERT INTO kafka.sql_commits_%2$s (group_number, topic_id, partition_id, commit_number, next_offset, committed_at)
        SELECT DISTINCT ON (c.group_number, c.topic_id, c.partition_id)
               c.group_number, c.topic_id, c.partition_id, c.commit_number, c.next_offset, c.committed_at
        FROM kafka.sql_commits_%1$s c
        JOIN kafka.sql_groups g ON g.number = c.group_number
        JOIN kafka.topics t ON t.id = c.topic_id
        ORDER BY c.group_number, c.topic_id, c.partition_id, c.commit_number DESC
        ON CONFLICT DO NOTHING$copy$, retired, state.active);
    GET DIAGNOSTICS copied = ROW_COUNT;
    UPDATE kafka.sql_commit_state s
    SET counting = array_remove(s.counting, retired), copied_at[retired + 1] = clock_timestamp(), live_bytes = copied * 100;
    PERFORM kafka.turn_sql_commits();
    RETURN copied;
END
$$;
COMMENT ON FUNCTION kafka.copy_sql_commits(smallint) IS
    'Copy what counts in a table that is not active any more to the active one, and have it read no more; how many commits that were. lock_not_available while a transaction is open that has written there. One transaction.';

CREATE OR REPLACE FUNCTION kafka.empty_sql_commits(retired smallint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM kafka.sql_commit_state s WHERE NOT retired = ANY (s.counting) AND s.copied_at[retired + 1] IS NOT NULL FOR UPDATE;
    IF FOUND THEN
        -- Not while a transaction is open that has used it. Nobody queues behind this.
        EXECUTE format('LOCK TABLE kafka.sql_commits_%s IN ACCESS EXCLUSIVE MODE NOWAIT', retired);
        EXECUTE format('TRUNCATE kafka.sql_commits_%s', retired);
        UPDATE kafka.sql_commit_state s SET copied_at[retired + 1] = NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.empty_sql_commits(smallint) IS 'Truncate a table whose commits were copied. lock_not_available while a transaction is open that has used it. One transaction.';
