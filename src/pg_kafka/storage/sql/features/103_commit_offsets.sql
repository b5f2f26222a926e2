-- kafka.commit_offsets: a member of a consumer group, which reads by a Kafka client, commits its offsets in its own transaction.
--
-- The fence. The transaction takes the lock of each partition that it commits, and only then looks, in a new snapshot, whether the member
-- may. A broker tells a new owner where to begin only after the new generation is committed, and when it has then seen that nobody holds
-- the locks (queries/member_commits.sql). So either the new owner begins behind what this transaction commits, or this one fails here.
-- Locks: 1885825896, 3 shared; then one of each group and partition, in the order of topic ids and partitions. All until the end.

CREATE OR REPLACE FUNCTION kafka.member_commit_lock(group_id text, topic_id bigint, partition integer) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN hashtextextended(format('kafka.commit_offsets %s %s %s', topic_id, partition, group_id), 0);
COMMENT ON FUNCTION kafka.member_commit_lock(text, bigint, integer) IS
    'Number of the advisory lock that a transaction holds from kafka.commit_offsets() to its end.';

CREATE OR REPLACE FUNCTION kafka.driven_by_sql(group_ids text[]) RETURNS TABLE (group_id text, is_driven boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- First the lock of kafka.claim_sql_group(), then what is committed: a claim that has ended in between is seen.
    RETURN QUERY SELECT w.group_id, false FROM unnest(group_ids) AS w (group_id)
    WHERE NOT pg_try_advisory_xact_lock_shared(kafka.sql_partition_lock(w.group_id, -1, -1));
    RETURN QUERY SELECT g.group_id, true FROM kafka.sql_groups g WHERE g.group_id = ANY (group_ids);
END
$$;
COMMENT ON FUNCTION kafka.driven_by_sql(text[]) IS
    'Those of some groups that SQL drives, or that an open transaction is about to have driven by SQL. A member of Kafka''s clients is told no offset of such a group.';

CREATE OR REPLACE FUNCTION kafka.check_member(group_id text, member_id text, generation integer, topic_ids bigint[], partitions integer[])
RETURNS text
-- VOLATILE, so that it has a snapshot of its own.
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    classic jsonb;
    owned jsonb;
    other record;
    members bigint;
BEGIN
    SELECT r.value INTO classic FROM kafka.group_records r
    WHERE r.group_id = check_member.group_id AND r.kind = 'classic' AND r.key = '';
    SELECT count(*) INTO members FROM kafka.group_records r WHERE r.group_id = check_member.group_id AND r.kind = 'member';
    IF generation < 0 THEN
        RETURN CASE WHEN members > 0 OR jsonb_array_length(classic -> 'members') > 0
                    THEN 'the group has members, and who is none may not commit' END;
    END IF;
    IF members > 0 THEN
        SELECT r.value INTO owned FROM kafka.group_records r
        WHERE r.group_id = check_member.group_id AND r.kind = 'current' AND r.key = member_id;
        IF owned IS NULL THEN
            RETURN 'it is no member any more';
        ELSIF (owned ->> 'epoch')::integer <> generation AND ((owned ->> 'epoch')::integer < generation OR EXISTS (
            -- A member may be behind by an epoch when it has had the partitions since then (KIP-1251).
            SELECT FROM unnest(topic_ids, partitions) AS w (topic_id, partition)
            JOIN kafka.topics t ON t.id = w.topic_id
            WHERE NOT EXISTS (
                SELECT FROM (VALUES ('assigned'), ('pending')) AS p (part),
                     jsonb_array_elements(owned -> p.part -> t.uuid::text) WITH ORDINALITY AS n (partition, place)
                WHERE n.partition::integer = w.partition
                  AND (owned -> (p.part || '_epochs') -> t.uuid::text ->> (n.place - 1)::integer)::integer <= generation)))
        THEN
            RETURN format('the epoch of the member is %s', owned ->> 'epoch');
        END IF;
        SELECT r.key AS member_id, t.name, w.partition INTO other
        FROM unnest(topic_ids, partitions) AS w (topic_id, partition)
        JOIN kafka.topics t ON t.id = w.topic_id
        JOIN kafka.group_records r ON r.group_id = check_member.group_id AND r.kind = 'current' AND r.key <> member_id
        WHERE r.value -> 'assigned' -> t.uuid::text @> to_jsonb(w.partition) OR r.value -> 'pending' -> t.uuid::text @> to_jsonb(w.partition)
        LIMIT 1;
    ELSE
        IF classic IS NULL OR NOT EXISTS (SELECT FROM jsonb_array_elements(classic -> 'members') AS m (value)
                                          WHERE m.value ->> 'member_id' = check_member.member_id) THEN
            RETURN 'it is no member any more';
        ELSIF (classic ->> 'generation')::integer <> generation THEN
            RETURN format('the generation of the group is %s', classic ->> 'generation');
        ELSIF classic ->> 'state' = 'CompletingRebalance' THEN
            RETURN 'the group is being rebalanced';
        END IF;
        SELECT m.value ->> 'member_id' AS member_id, t.name, w.partition INTO other
        FROM unnest(topic_ids, partitions) AS w (topic_id, partition)
        JOIN kafka.topics t ON t.id = w.topic_id
        JOIN jsonb_array_elements(classic -> 'members') AS m (value) ON m.value ->> 'member_id' <> check_member.member_id
        WHERE jsonb_typeof(m.value -> 'assigned') = 'object' AND m.value -> 'assigned' -> t.name @> to_jsonb(w.partition)
        LIMIT 1;
    END IF;
    RETURN CASE WHEN other.member_id IS NOT NULL
                THEN format('partition %s-%s belongs to member "%s" now', other.name, other.partition, other.member_id) END;
END
$$;
COMMENT ON FUNCTION kafka.check_member(text, text, integer, bigint[], integer[]) IS
    'Part of kafka.commit_offsets(): why a member of a consumer group may not commit, or NULL.';

CREATE OR REPLACE FUNCTION kafka.commit_offsets(group_id text, member_id text, generation integer, offsets jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- In whose name the caller's statement runs; current_user is the owner in here.
    asking constant text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    asked record;
    topic record;
    wanted jsonb;
    next_offset bigint;
    leader_epoch integer;
    topic_ids bigint[] := '{}';
    partitions integer[] := '{}';
    next_offsets bigint[] := '{}';
    leader_epochs integer[] := '{}';
    metadata text[] := '{}';
    place record;
    reason text;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'kafka.commit_offsets() is not possible under %', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'KF014',
                  HINT = 'Use READ COMMITTED: a transaction with an older snapshot cannot see that its partitions have gone to another member.';
    ELSIF commit_offsets.group_id IS NULL OR commit_offsets.offsets IS NULL OR commit_offsets.generation IS NULL
          OR (commit_offsets.member_id IS NULL AND commit_offsets.generation >= 0) THEN
        RAISE EXCEPTION 'group_id, member_id, generation and offsets must not be NULL'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'A consumer that is no member of its group has generation -1; then member_id may be NULL.';
    ELSIF octet_length(commit_offsets.group_id) NOT BETWEEN 1 AND 2000 THEN
        RAISE EXCEPTION 'the group id has % bytes', octet_length(commit_offsets.group_id)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It has from 1 to 2000.';
    ELSIF jsonb_typeof(offsets) <> 'object' THEN
        RAISE EXCEPTION 'offsets is no JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance {"orders": {"0": 42}}: 42 is the next offset to consume.';
    END IF;
    FOR asked IN SELECT o.key AS name, o.value FROM jsonb_each(offsets) AS o LOOP
        SELECT t.id, t.partitions, coalesce(to_regclass('topics.' || quote_ident(t.view_name)), 'kafka.messages'::regclass) AS shown_by
        INTO topic FROM kafka.topics t WHERE t.name = asked.name;
        IF topic.id IS NULL THEN
            RAISE EXCEPTION 'topic "%" does not exist', asked.name
                USING ERRCODE = 'KF001', HINT = 'SELECT name FROM kafka.topics tells which do.';
        ELSIF NOT has_table_privilege(asking, topic.shown_by, 'SELECT') THEN
            RAISE EXCEPTION 'permission denied for topic "%"', asked.name
                USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT SELECT ON %s TO %I', topic.shown_by, asking);
        ELSIF jsonb_typeof(asked.value) <> 'object' THEN
            RAISE EXCEPTION 'offsets has no JSON object for topic "%"', asked.name
                USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance {"orders": {"0": 42}}: 42 is the next offset to consume.';
        END IF;
        FOR place IN SELECT p.key AS partition, p.value FROM jsonb_each(asked.value) AS p LOOP
            IF place.partition !~ '^[0-9]{1,9}$' OR place.partition::integer >= topic.partitions THEN
                RAISE EXCEPTION 'topic "%" has no partition "%"', asked.name, place.partition
                    USING ERRCODE = 'KF002', HINT = format('It has partitions 0 to %s.', topic.partitions - 1);
            END IF;
            wanted := CASE jsonb_typeof(place.value) WHEN 'object' THEN place.value ELSE jsonb_build_object('offset', place.value) END;
            IF wanted ->> 'offset' IS NULL OR wanted ->> 'offset' !~ '^-?[0-9]{1,18}$'
               OR coalesce(wanted ->> 'leader_epoch', '-1') !~ '^(-1|[0-9]{1,9})$' THEN
                RAISE EXCEPTION 'partition %-% has no offset that is a whole number', asked.name, place.partition
                    USING ERRCODE = 'invalid_parameter_value',
                          HINT = 'It is 42 or {"offset": 42, "leader_epoch": 7, "metadata": "text"}; the latter two may be left out.';
            END IF;
            next_offset := wanted ->> 'offset';
            leader_epoch := coalesce(wanted ->> 'leader_epoch', '-1');
            IF next_offset < 0 THEN
                RAISE EXCEPTION 'offset % of partition %-% is below 0', next_offset, asked.name, place.partition
                    USING ERRCODE = 'KF013', HINT = 'It is the next offset to consume: that of the last record that was handled, and 1.';
            ELSIF length(wanted ->> 'metadata') > 4096 THEN
                RAISE EXCEPTION 'the metadata of partition %-% has % characters', asked.name, place.partition, length(wanted ->> 'metadata')
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'It has 4096 at most.';
            END IF;
            topic_ids := topic_ids || topic.id;
            partitions := partitions || place.partition::integer;
            next_offsets := next_offsets || next_offset;
            leader_epochs := leader_epochs || leader_epoch;
            metadata := metadata || coalesce(wanted ->> 'metadata', '');
        END LOOP;
    END LOOP;
    IF EXISTS (SELECT FROM unnest(topic_ids, partitions) AS w (topic_id, partition) GROUP BY w.topic_id, w.partition HAVING count(*) > 1) THEN
        RAISE EXCEPTION 'offsets names a partition twice' USING ERRCODE = 'invalid_parameter_value', HINT = 'As "1" and "01".';
    END IF;
    -- One statement that a broker can try: whether any transaction has these locks at all.
    PERFORM pg_advisory_xact_lock_shared(1885825896, 3);
    FOR place IN SELECT w.topic_id, w.partition FROM unnest(topic_ids, partitions) AS w (topic_id, partition) ORDER BY 1, 2 LOOP
        PERFORM pg_advisory_xact_lock(kafka.member_commit_lock(commit_offsets.group_id, place.topic_id, place.partition));
    END LOOP;
    IF EXISTS (SELECT FROM kafka.sql_groups g WHERE g.group_id = commit_offsets.group_id) THEN
        RAISE EXCEPTION 'group "%" is driven by SQL', commit_offsets.group_id
            USING ERRCODE = 'KF011', HINT = 'kafka.poll() moves its offsets, and kafka.seek() sets them.';
    END IF;
    reason := kafka.check_member(commit_offsets.group_id, coalesce(commit_offsets.member_id, ''), generation, topic_ids, partitions);
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'group "%": member "%" of generation % may not commit: %',
                        commit_offsets.group_id, coalesce(commit_offsets.member_id, ''), generation, reason
            USING ERRCODE = 'KF012',
                  HINT = 'Roll back. The records that the transaction has handled are read again, by the member that has their partitions now.';
    END IF;
    IF (SELECT t.active FROM kafka.member_commits_turn t) = 0 THEN
        INSERT INTO kafka.member_commits_0 (group_id, topic_id, partition_id, committed_offset, leader_epoch, metadata)
        SELECT commit_offsets.group_id, w.topic_id, w.partition, w.next_offset, w.leader_epoch, w.metadata
        FROM unnest(topic_ids, partitions, next_offsets, leader_epochs, metadata) AS w (topic_id, partition, next_offset, leader_epoch, metadata);
    ELSE
        INSERT INTO kafka.member_commits_1 (group_id, topic_id, partition_id, committed_offset, leader_epoch, metadata)
        SELECT commit_offsets.group_id, w.topic_id, w.partition, w.next_offset, w.leader_epoch, w.metadata
        FROM unnest(topic_ids, partitions, next_offsets, leader_epochs, metadata) AS w (topic_id, partition, next_offset, leader_epoch, metadata);
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.commit_offsets(text, text, integer, jsonb) IS
    'Commit offsets of a consumer group in this transaction, as {"topic": {"partition": next offset}}, for a member that reads by a Kafka client. Fails with KF012 when the member or its generation is not the group''s any more. Needs SELECT on the topics'' views.';

CREATE OR REPLACE FUNCTION kafka.commit_offsets(group_id text, member_id text, generation integer, topic text, partition integer, next_offset bigint)
RETURNS void
-- Not SECURITY DEFINER: the other one asks who calls.
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF topic IS NULL OR partition IS NULL OR next_offset IS NULL THEN
        RAISE EXCEPTION 'topic, partition and next_offset must not be NULL' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'next_offset is that of the last record that was handled, and 1.';
    END IF;
    PERFORM kafka.commit_offsets(group_id, member_id, generation, jsonb_build_object(topic, jsonb_build_object(partition, next_offset)));
END
$$;
COMMENT ON FUNCTION kafka.commit_offsets(text, text, integer, text, integer, bigint) IS
    'The same for one partition: next_offset is the next offset to consume.';
