-- Columns of topics' views that are taken from JSON values: kafka.define_columns().
--
-- Everybody may execute the functions json_as_...(), as kafka.as_json(): PostgreSQL asks for that from whoever reads a view with them.
-- They are given JSON, and read nothing. What does not fit is NULL: no record ends a query. A block with EXCEPTION begins a
-- subtransaction, which costs as much as all the rest: it is only there for what is rare, and no parallel worker can run it.
--
-- These have no search_path of their own: setting it would take longer than all they do.

CREATE OR REPLACE FUNCTION kafka.json_as_numeric(item jsonb) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    given text;
BEGIN
    IF pg_catalog.jsonb_typeof(item) = 'number' THEN
        RETURN item::pg_catalog.numeric;
    ELSIF pg_catalog.jsonb_typeof(item) <> 'string' THEN
        RETURN NULL;
    END IF;
    given := item #>> '{}';
    -- No NaN and no infinity, and no megabyte of digits.
    IF pg_catalog.octet_length(given) > 1000 OR pg_catalog.translate(given, '0123456789+-.eE', '') <> '' THEN
        RETURN NULL;
    END IF;
    BEGIN
        RETURN given::pg_catalog.numeric;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END;
END
$$;
COMMENT ON FUNCTION kafka.json_as_numeric(jsonb) IS 'A number, or a string that is one; otherwise NULL. Part of columns of topics'' views.';

CREATE OR REPLACE FUNCTION kafka.json_as_bigint(item jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    number pg_catalog.numeric;
BEGIN
    IF pg_catalog.jsonb_typeof(item) = 'number' THEN
        number := item::pg_catalog.numeric;
    ELSE
        number := kafka.json_as_numeric(item);
    END IF;
    IF number BETWEEN -9223372036854775808 AND 9223372036854775807 AND number = pg_catalog.trunc(number) THEN
        RETURN number::pg_catalog.int8;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.json_as_bigint(jsonb) IS 'As kafka.json_as_numeric(); NULL for what is no whole number, or too large.';

CREATE OR REPLACE FUNCTION kafka.json_as_integer(item jsonb) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    number pg_catalog.numeric := kafka.json_as_numeric(item);
BEGIN
    IF number BETWEEN -2147483648 AND 2147483647 AND number = pg_catalog.trunc(number) THEN
        RETURN number::pg_catalog.int4;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.json_as_integer(jsonb) IS 'As kafka.json_as_bigint(), of 32 bits.';

CREATE OR REPLACE FUNCTION kafka.json_as_double(item jsonb) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    number pg_catalog.numeric := kafka.json_as_numeric(item);
BEGIN
    IF number = 0 OR pg_catalog.abs(number) BETWEEN 2.2250738585072014e-308 AND 1.7976931348623157e308 THEN
        RETURN number::pg_catalog.float8;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.json_as_double(jsonb) IS 'As kafka.json_as_numeric(), in double precision; NULL for what is too large or too small for that.';

CREATE OR REPLACE FUNCTION kafka.json_as_boolean(item jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    given pg_catalog.text := item #>> '{}';
BEGIN
    -- No object or array has these as its text.
    IF given = 'true' OR given = 'false' THEN
        RETURN given = 'true';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.json_as_boolean(jsonb) IS 'true or false, also as a string; otherwise NULL.';

CREATE OR REPLACE FUNCTION kafka.json_as_uuid(item jsonb) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    given pg_catalog.text := item #>> '{}';
BEGIN
    IF pg_catalog.octet_length(given) NOT BETWEEN 32 AND 47 OR pg_catalog.jsonb_typeof(item) <> 'string' THEN
        RETURN NULL;
    END IF;
    BEGIN
        RETURN given::pg_catalog.uuid;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END;
END
$$;
COMMENT ON FUNCTION kafka.json_as_uuid(jsonb) IS 'A string that is a UUID; otherwise NULL.';

CREATE OR REPLACE FUNCTION kafka.json_as_timestamptz(item jsonb) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    given pg_catalog.text COLLATE pg_catalog."C";
    number pg_catalog.numeric;
BEGIN
    IF pg_catalog.jsonb_typeof(item) = 'number' THEN
        number := item::pg_catalog.numeric;
        IF number BETWEEN -62135596800000 AND 253402300799999 THEN
            RETURN timestamptz 'epoch' + number::pg_catalog.float8 * interval '1 millisecond';
        END IF;
        RETURN NULL;
    ELSIF pg_catalog.jsonb_typeof(item) <> 'string' THEN
        RETURN NULL;
    END IF;
    given := item #>> '{}';
    -- Nearly all look like this, and cannot fail: no subtransaction.
    IF given LIKE '____-__-__T__:__:__%Z' AND pg_catalog.substr(given, 20, 1) IN ('Z', '.') AND given NOT LIKE '%.Z'
       AND pg_catalog.translate(given, '0123456789', '') IN ('--T::Z', '--T::.Z') AND pg_catalog.octet_length(given) <= 40
       AND pg_catalog.left(given, 4) <> '0000' AND pg_catalog.substr(given, 6, 2) BETWEEN '01' AND '12'
       AND pg_catalog.substr(given, 9, 2) BETWEEN '01' AND '28' AND pg_catalog.substr(given, 12, 2) <= '23'
       AND pg_catalog.substr(given, 15, 2) <= '59' AND pg_catalog.substr(given, 18, 2) <= '59' THEN
        RETURN given::pg_catalog.timestamptz;
    END IF;
    -- ISO 8601, which means the same whatever the session's settings are. No name of a zone, no "now".
    IF given NOT LIKE '____-__-__%' OR pg_catalog.octet_length(given) > 40
       OR pg_catalog.translate(pg_catalog.left(given, 10), '0123456789', '') <> '--'
       OR pg_catalog.translate(pg_catalog.substr(given, 11), '0123456789:.+-TtZz ', '') <> '' THEN
        RETURN NULL;
    END IF;
    BEGIN
        IF pg_catalog.translate(pg_catalog.substr(given, 11), '0123456789:.Tt ', '') = '' THEN
            RETURN (given || ' UTC')::pg_catalog.timestamptz;
        END IF;
        RETURN given::pg_catalog.timestamptz;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END;
END
$$;
COMMENT ON FUNCTION kafka.json_as_timestamptz(jsonb) IS
    'A time: a string as in ISO 8601, in UTC where it names no zone, or a number of milliseconds since 1970; otherwise NULL.';

CREATE OR REPLACE FUNCTION kafka.json_as_date(item jsonb) RETURNS date
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    given pg_catalog.text := item #>> '{}';
BEGIN
    IF given NOT LIKE '____-__-__' OR pg_catalog.translate(given, '0123456789', '') <> '--' THEN
        RETURN NULL;
    END IF;
    BEGIN
        RETURN given::pg_catalog.date;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END;
END
$$;
COMMENT ON FUNCTION kafka.json_as_date(jsonb) IS 'A string as in 2026-11-29; otherwise NULL.';

CREATE OR REPLACE FUNCTION kafka.json_path(path text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rest text := substr(path, 2);
    step text[];
    steps text[] := '{}';
BEGIN
    IF left(path, 1) <> '$' OR octet_length(path) > 1000 THEN
        RETURN NULL;
    END IF;
    WHILE rest <> '' LOOP
        step := regexp_match(rest, '^([.]([^]."*@$()?&|!=<>,:\\\s[]+)|[.]("(?:[^"\\]|\\["\\/bfnrtu])*")|\[([0-9]{1,9})\])');
        IF step IS NULL THEN
            RETURN NULL;
        END IF;
        steps := steps || coalesce(step[2], step[3]::jsonb #>> '{}', step[4]);
        rest := substr(rest, length(step[1]) + 1);
    END LOOP;
    RETURN steps;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.json_path(text) IS
    'A path such as $.address.city, $.items[0].sku or $."two words", in steps; NULL when it is none. Part of kafka.define_columns().';

CREATE OR REPLACE FUNCTION kafka.member_path(name text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN kafka.json_path('$.' || name) = ARRAY[name] THEN '$.' || name ELSE '$.' || to_json(name)::text END;
COMMENT ON FUNCTION kafka.member_path(text) IS 'The path of a member of the document. Part of kafka.define_columns().';

CREATE OR REPLACE FUNCTION kafka.column_expression(type text, path text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN format(CASE type WHEN 'text' THEN 'd.document #>> %L' WHEN 'jsonb' THEN 'nullif(d.document #> %L, ''null'')'
                        WHEN 'double precision' THEN 'kafka.json_as_double(d.document #> %L)'
                        ELSE 'kafka.json_as_' || type || '(d.document #> %L)' END, kafka.json_path(path));
COMMENT ON FUNCTION kafka.column_expression(text, text) IS 'What a topic''s view has for a column. Part of kafka.create_topic_view().';

CREATE OR REPLACE FUNCTION kafka.refuse_columns() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given text;
BEGIN
    EXECUTE (SELECT format('SELECT coalesce(%s)', string_agg(format('CASE WHEN $1.%I IS NOT NULL THEN %L END', c.name, c.name), ', '
                                                             ORDER BY c.position))
             FROM kafka.topic_columns c WHERE c.topic = TG_ARGV[0])
    INTO given USING NEW;
    IF given IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of topics.% is taken from the value', given, quote_ident(TG_TABLE_NAME)
            USING ERRCODE = 'KF023', HINT = 'Insert the value, for example as convert_to(jsonb_build_object(...)::text, ''UTF8'').';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION kafka.refuse_columns() IS
    'Trigger of topics'' views with columns of their own: a value for one of these would be lost. Its argument is the topic''s name.';

CREATE OR REPLACE FUNCTION kafka.topic_to_define(topic text) RETURNS kafka.topics
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_topic kafka.topics;
BEGIN
    IF topic IS NULL THEN
        RAISE EXCEPTION 'topic must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'The topics are in kafka.topics.';
    END IF;
    SELECT * INTO found_topic FROM kafka.topics t WHERE t.name = topic_to_define.topic FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'KF001', HINT = 'The topics are in kafka.topics.';
    ELSIF topic ~ '^__|-(changelog|repartition)$' THEN
        RAISE EXCEPTION 'topic "%" has no view that could have columns', topic
            USING ERRCODE = 'KF020', HINT = 'Internal topics have none; kafka.messages shows their records.';
    END IF;
    RETURN found_topic;
END
$$;
COMMENT ON FUNCTION kafka.topic_to_define(text) IS 'Part of kafka.define_columns(): the topic, which is not deleted meanwhile, or an error.';

CREATE OR REPLACE FUNCTION kafka.define_columns(topic text, columns json) RETURNS SETOF kafka.topic_columns
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    place kafka.topics;
    given record;
    its_type text;
    its_path text;
    hint constant text := 'As in kafka.define_columns(''orders'', ''{"customer": "text", "city": {"type": "text", "path": "$.address.city"}}'').';
BEGIN
    place := kafka.topic_to_define(topic);
    IF columns IS NULL OR json_typeof(columns) <> 'object' THEN
        RAISE EXCEPTION 'columns must be a JSON object of names and types' USING ERRCODE = 'KF020', HINT = hint;
    END IF;
    FOR given IN
        SELECT e.key AS name, e.value AS definition, json_typeof(e.value) AS kind, e.value #>> '{}' AS plain, e.n,
               count(*) OVER (PARTITION BY e.key) AS times
        FROM json_each(columns) WITH ORDINALITY AS e (key, value, n) ORDER BY e.n
    LOOP
        IF given.kind = 'object' THEN
            its_type := given.definition ->> 'type';
            its_path := given.definition ->> 'path';
            IF EXISTS (SELECT FROM json_object_keys(given.definition) AS k (name) WHERE k.name NOT IN ('type', 'path')) OR its_type IS NULL THEN
                RAISE EXCEPTION 'column "%" must have a type, may have a path, and nothing else', given.name USING ERRCODE = 'KF020', HINT = hint;
            END IF;
        ELSIF given.kind = 'string' THEN
            its_type := given.plain;
            its_path := NULL;
        ELSE
            RAISE EXCEPTION 'column "%" must have a type, or an object with type and path', given.name USING ERRCODE = 'KF020', HINT = hint;
        END IF;
        its_path := coalesce(its_path, kafka.member_path(given.name));
        IF given.name = '' OR octet_length(given.name) > 63 THEN
            RAISE EXCEPTION 'a column''s name must have 1 to 63 bytes: "%"', given.name USING ERRCODE = 'KF020', HINT = hint;
        ELSIF given.times > 1 THEN
            RAISE EXCEPTION 'column "%" is there twice', given.name USING ERRCODE = 'KF020', HINT = hint;
        ELSIF given.name IN ('ctid', 'tableoid', 'xmin', 'cmin', 'xmax', 'cmax')
              OR (EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'kafka.topic_messages'::regclass AND a.attname = given.name)
                  AND NOT EXISTS (SELECT FROM kafka.topic_columns c WHERE c.topic = place.name AND c.name = given.name)) THEN
            RAISE EXCEPTION 'every topic''s view has a column "%"', given.name
                USING ERRCODE = 'KF020', HINT = format('Give it another name and the path: {"%s_": {"type": "text", "path": "$.%s"}}', given.name, given.name);
        ELSIF kafka.json_path(its_path) IS NULL THEN
            RAISE EXCEPTION 'column "%" has a path that is none: %', given.name, left(its_path, 200)
                USING ERRCODE = 'KF020',
                      HINT = 'A path is $ and steps: .name or ."any name" for a member, [0] for an element of an array. For more than that make a view on the topic''s view.';
        END IF;
        its_type := CASE lower(btrim(its_type)) WHEN 'int8' THEN 'bigint' WHEN 'int' THEN 'integer' WHEN 'int4' THEN 'integer'
                         WHEN 'decimal' THEN 'numeric' WHEN 'float8' THEN 'double precision' WHEN 'bool' THEN 'boolean'
                         WHEN 'timestamp with time zone' THEN 'timestamptz' WHEN 'json' THEN 'jsonb' ELSE lower(btrim(its_type)) END;
        IF its_type NOT IN ('text', 'bigint', 'integer', 'numeric', 'double precision', 'boolean', 'timestamptz', 'date', 'uuid', 'jsonb') THEN
            RAISE EXCEPTION 'column "%" has a type that columns cannot have: %', given.name, left(its_type, 200)
                USING ERRCODE = 'KF020',
                      HINT = 'They have text, bigint, integer, numeric, double precision, boolean, timestamptz, date, uuid or jsonb.';
        END IF;
        INSERT INTO kafka.topic_columns AS c (topic, name, position, type, path)
        VALUES (place.name, given.name, (SELECT coalesce(max(o.position), 0) + 1 FROM kafka.topic_columns o WHERE o.topic = place.name),
                its_type, its_path)
        ON CONFLICT (topic, name) DO UPDATE SET type = EXCLUDED.type, path = EXCLUDED.path
        WHERE (c.type, c.path) IS DISTINCT FROM (EXCLUDED.type, EXCLUDED.path);
    END LOOP;
    IF (SELECT count(*) FROM kafka.topic_columns c WHERE c.topic = place.name) > 500 THEN
        RAISE EXCEPTION 'topic "%" would have more than 500 columns of its own', place.name
            USING ERRCODE = 'KF020', HINT = 'Columns of type jsonb can hold whole objects.';
    END IF;
    PERFORM kafka.make_topic_view(place.id, true);
    RETURN QUERY SELECT * FROM kafka.topic_columns c WHERE c.topic = place.name ORDER BY c.position;
END
$$;
COMMENT ON FUNCTION kafka.define_columns(text, json) IS
    'Give a topic''s view columns from its JSON values, {"name": "type"} or {"name": {"type": "...", "path": "$.a.b"}}, or change some; others stay. Returns all that it has then. What does not fit is NULL.';

CREATE OR REPLACE FUNCTION kafka.undefine_columns(topic text, VARIADIC names text[] DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    place kafka.topics;
    unknown_name text;
    removed integer;
BEGIN
    -- Columns of a topic that has been deleted can go as well.
    IF EXISTS (SELECT FROM kafka.topics t WHERE t.name = undefine_columns.topic)
       OR NOT EXISTS (SELECT FROM kafka.topic_columns c WHERE c.topic = undefine_columns.topic) THEN
        place := kafka.topic_to_define(topic);
    END IF;
    SELECT n.name INTO unknown_name FROM unnest(names) AS n (name)
    WHERE NOT EXISTS (SELECT FROM kafka.topic_columns c WHERE c.topic = undefine_columns.topic AND c.name = n.name) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'topic "%" has no column "%" of its own', topic, unknown_name
            USING ERRCODE = 'KF020', HINT = format('SELECT name, type, path FROM kafka.topic_columns WHERE topic = %L', topic);
    END IF;
    DELETE FROM kafka.topic_columns c WHERE c.topic = undefine_columns.topic AND (names IS NULL OR c.name = ANY (names));
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF place.id IS NOT NULL THEN
        PERFORM kafka.make_topic_view(place.id, true);
    END IF;
    RETURN removed;
END
$$;
COMMENT ON FUNCTION kafka.undefine_columns(text, text[]) IS
    'Take columns from a topic''s view that kafka.define_columns() has given it, all when none is named. Returns how many.';

CREATE OR REPLACE FUNCTION kafka.define_columns_from_sample(topic text, records integer DEFAULT 100) RETURNS SETOF kafka.topic_columns
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    place kafka.topics;
    documents jsonb[];
    found_columns json;
BEGIN
    place := kafka.topic_to_define(topic);
    -- Asks whether the caller may read the topic: names of members tell of its records.
    documents := ARRAY(SELECT d.document FROM (SELECT kafka.as_json(m.value) AS document FROM kafka.tail(place.name, records) m) AS d
                       WHERE jsonb_typeof(d.document) = 'object');
    IF cardinality(documents) = 0 THEN
        RAISE EXCEPTION 'none of the last % records of topic "%" is a JSON object', records, topic
            USING ERRCODE = 'KF022', HINT = 'kafka.define_columns() takes names and types.';
    END IF;
    WITH members AS (
        SELECT e.key, e.n, e.value, jsonb_typeof(e.value) AS kind
        FROM unnest(documents) AS d (document) CROSS JOIN jsonb_each(d.document) WITH ORDINALITY AS e (key, value, n)
        WHERE octet_length(e.key) BETWEEN 1 AND 62
    ), kinds AS (
        SELECT m.key, max(m.n) AS place, array_agg(DISTINCT m.kind) FILTER (WHERE m.kind <> 'null') AS kinds,
               bool_and(kafka.json_as_bigint(m.value) IS NOT NULL) FILTER (WHERE m.kind <> 'null') AS are_whole,
               bool_and(kafka.json_as_uuid(m.value) IS NOT NULL) FILTER (WHERE m.kind <> 'null') AS are_uuids,
               bool_and(kafka.json_as_date(m.value) IS NOT NULL) FILTER (WHERE m.kind <> 'null') AS are_dates,
               bool_and(kafka.json_as_timestamptz(m.value) IS NOT NULL) FILTER (WHERE m.kind <> 'null') AS are_times
        FROM members m GROUP BY m.key
    ), named AS (
        SELECT k.*, kafka.member_path(k.key) AS path,
               k.key || CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'kafka.topic_messages'::regclass AND a.attname = k.key)
                             THEN '_' ELSE '' END AS name
        FROM kinds k
    )
    SELECT json_object_agg(n.name, json_build_object('path', n.path, 'type', CASE
               WHEN n.kinds && '{object,array}' THEN 'jsonb'
               WHEN n.kinds = '{boolean}' THEN 'boolean'
               WHEN n.kinds = '{number}' AND n.are_whole THEN 'bigint'
               WHEN n.kinds = '{number}' THEN 'numeric'
               WHEN n.kinds = '{string}' AND n.are_uuids THEN 'uuid'
               WHEN n.kinds = '{string}' AND n.are_dates THEN 'date'
               WHEN n.kinds = '{string}' AND n.are_times THEN 'timestamptz'
               ELSE 'text' END) ORDER BY n.place, n.key) INTO found_columns
    FROM named n
    WHERE NOT EXISTS (SELECT FROM kafka.topic_columns c WHERE c.topic = place.name AND (c.name = n.name OR c.path = n.path))
      AND NOT EXISTS (SELECT FROM named o WHERE o.name = n.name AND o.key = n.name AND n.key <> n.name);
    RETURN QUERY SELECT * FROM kafka.define_columns(topic, coalesce(found_columns, '{}'));
END
$$;
COMMENT ON FUNCTION kafka.define_columns_from_sample(text, integer) IS
    'Give a topic''s view a column for each member of the JSON objects in its last records, with the type that fits all of these; what is defined already stays. Returns all columns that it has then.';
