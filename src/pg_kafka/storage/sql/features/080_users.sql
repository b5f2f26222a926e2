-- Users who log in by SASL. A password given here becomes keys at once; PBKDF2 is written with what every server has.

CREATE OR REPLACE VIEW kafka.users AS
SELECT k.name, k.mechanism, k.iterations, k.changed_at FROM kafka.user_keys k;
COMMENT ON VIEW kafka.users IS 'Who may log in by SASL, and by what: a row for each mechanism of a user. PLAIN goes with either.';
COMMENT ON COLUMN kafka.users.iterations IS 'How often the password is hashed, by whoever logs in or tries passwords.';

CREATE OR REPLACE FUNCTION kafka.hash(mechanism text, data bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE mechanism WHEN 'SCRAM-SHA-256' THEN sha256(data) WHEN 'SCRAM-SHA-512' THEN sha512(data) END;
COMMENT ON FUNCTION kafka.hash(text, bytea) IS 'The hash function of a mechanism of SCRAM.';

CREATE OR REPLACE FUNCTION kafka.hmac_pad(mechanism text, key bytea, pad integer) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH k AS (
        SELECT CASE WHEN octet_length(key) > b.size THEN kafka.hash(mechanism, key) ELSE key END AS short, b.size
        FROM (SELECT CASE mechanism WHEN 'SCRAM-SHA-256' THEN 64 ELSE 128 END AS size) AS b
    )
    SELECT decode(string_agg(lpad(to_hex(pad # CASE WHEN n < octet_length(k.short) THEN get_byte(k.short, n) ELSE 0 END), 2, '0'), ''
                             ORDER BY n), 'hex')
    FROM k, generate_series(0, k.size - 1) AS n;
END;
COMMENT ON FUNCTION kafka.hmac_pad(text, bytea, integer) IS 'A key of HMAC as a block of the hash function, combined with 0x36 or 0x5c (RFC 2104).';

CREATE OR REPLACE FUNCTION kafka.hmac(mechanism text, key bytea, data bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN kafka.hash(mechanism, kafka.hmac_pad(mechanism, key, 92) || kafka.hash(mechanism, kafka.hmac_pad(mechanism, key, 54) || data));
COMMENT ON FUNCTION kafka.hmac(text, bytea, bytea) IS 'HMAC with the hash function of a mechanism.';

CREATE OR REPLACE FUNCTION kafka.salted_password(mechanism text, password text, salt bytea, iterations integer) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    inner_pad bytea := kafka.hmac_pad(mechanism, convert_to(password, 'UTF8'), 54);
    outer_pad bytea := kafka.hmac_pad(mechanism, convert_to(password, 'UTF8'), 92);
    u bytea := salt || '\x00000001';
    bits bit varying;
    salted bit varying;
BEGIN
    -- bytea has no XOR, bits have. One branch for each hash function: a function around them takes as long as they do.
    IF mechanism = 'SCRAM-SHA-256' THEN
        FOR n IN 1..iterations LOOP
            u := sha256(outer_pad || sha256(inner_pad || u));
            bits := ('x' || encode(u, 'hex'))::bit(256);
            salted := CASE WHEN n = 1 THEN bits ELSE salted # bits END;
        END LOOP;
    ELSE
        FOR n IN 1..iterations LOOP
            u := sha512(outer_pad || sha512(inner_pad || u));
            bits := ('x' || encode(u, 'hex'))::bit(512);
            salted := CASE WHEN n = 1 THEN bits ELSE salted # bits END;
        END LOOP;
    END IF;
    RETURN substring(varbit_send(salted) FROM 5);  -- what comes first is the length
END
$$;
COMMENT ON FUNCTION kafka.salted_password(text, text, bytea, integer) IS 'PBKDF2 (RFC 8018), which RFC 5802 calls Hi().';

CREATE OR REPLACE FUNCTION kafka.set_keys(name text, password text, mechanism text, iterations integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := regexp_match(password, '^(SCRAM-SHA-256|SCRAM-SHA-512)\$([0-9]{1,6}):([A-Za-z0-9+/=]*)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$');
    wanted text[] := CASE WHEN mechanism IS NULL THEN ARRAY['SCRAM-SHA-256', 'SCRAM-SHA-512'] ELSE ARRAY[mechanism] END;
    new kafka.user_keys;
    salted bytea;
BEGIN
    IF mechanism NOT IN ('SCRAM-SHA-256', 'SCRAM-SHA-512') THEN
        RAISE EXCEPTION 'there is no mechanism "%"', mechanism
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SCRAM-SHA-256 and SCRAM-SHA-512; PLAIN goes with either.';
    END IF;
    IF coalesce(name, '') = '' OR length(name) > 255 THEN
        RAISE EXCEPTION 'a user has a name of 1 to 255 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF coalesce(password, '') = '' THEN
        RAISE EXCEPTION 'user "%" needs a password', name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    new.name := name;
    new.changed_at := clock_timestamp();
    IF parts IS NOT NULL THEN
        IF parts[1] <> mechanism THEN
            RAISE EXCEPTION 'these are keys of %, not of %', parts[1], mechanism USING ERRCODE = 'invalid_parameter_value';
        END IF;
        wanted := ARRAY[parts[1]];
        iterations := parts[2]::integer;
    END IF;
    IF iterations IS NULL OR iterations NOT BETWEEN 4096 AND 16384 THEN
        RAISE EXCEPTION 'iterations must be from 4096 to 16384, not %', iterations USING ERRCODE = 'invalid_parameter_value';
    END IF;
    new.iterations := iterations;
    FOREACH new.mechanism IN ARRAY wanted LOOP
        IF parts IS NOT NULL THEN
            new.salt := decode(parts[3], 'base64');
            new.stored_key := decode(parts[4], 'base64');
            new.server_key := decode(parts[5], 'base64');
        ELSE
            -- Two of them have 244 random bits.
            new.salt := substring(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) FOR 20);
            salted := kafka.salted_password(new.mechanism, password, new.salt, iterations);
            new.stored_key := kafka.hash(new.mechanism, kafka.hmac(new.mechanism, salted, 'Client Key'));
            new.server_key := kafka.hmac(new.mechanism, salted, 'Server Key');
        END IF;
        INSERT INTO kafka.user_keys VALUES (new.*)
        ON CONFLICT ON CONSTRAINT user_keys_pkey DO UPDATE
        SET iterations = EXCLUDED.iterations, salt = EXCLUDED.salt, stored_key = EXCLUDED.stored_key,
            server_key = EXCLUDED.server_key, changed_at = EXCLUDED.changed_at;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.set_keys(text, text, text, integer) IS 'What kafka.create_user() and kafka.alter_user() have in common.';

CREATE OR REPLACE FUNCTION kafka.create_user(name text, password text, mechanism text DEFAULT NULL, iterations integer DEFAULT 4096)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Two that create the same user, or one that alters it meanwhile, come one after the other.
    LOCK TABLE kafka.user_keys IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM kafka.user_keys k WHERE k.name = create_user.name) THEN
        RAISE EXCEPTION 'there is a user "%" already', name
            USING ERRCODE = 'duplicate_object', HINT = 'kafka.alter_user() changes the password.';
    END IF;
    PERFORM kafka.set_keys(name, password, mechanism, iterations);
END
$$;
COMMENT ON FUNCTION kafka.create_user(text, text, text, integer) IS
    'A new user for SASL: SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN, or one SCRAM mechanism and PLAIN. The password may be given as SCRAM keys in PostgreSQL''s form (SCRAM-SHA-256$4096:salt$stored:server). Brokers know the user within a second.';

CREATE OR REPLACE FUNCTION kafka.alter_user(name text, password text, mechanism text DEFAULT NULL, iterations integer DEFAULT 4096)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE kafka.user_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM kafka.user_keys k WHERE k.name = alter_user.name) THEN
        RAISE EXCEPTION 'there is no user "%"', name
            USING ERRCODE = 'undefined_object', HINT = 'kafka.create_user() makes one; the users are in kafka.users.';
    END IF;
    IF mechanism IS NULL THEN
        -- What is not set anew would still take the old password.
        DELETE FROM kafka.user_keys k
        WHERE k.name = alter_user.name AND password ~ '^SCRAM-SHA-(256|512)\$' AND NOT starts_with(password, k.mechanism || '$');
    END IF;
    PERFORM kafka.set_keys(name, password, mechanism, iterations);
END
$$;
COMMENT ON FUNCTION kafka.alter_user(text, text, text, integer) IS
    'A new password for a user. Without a mechanism the old one is good for nothing any more; with one, only that mechanism''s keys are changed, or added. Brokers close the connections that logged in by what is changed within two seconds.';

CREATE OR REPLACE FUNCTION kafka.drop_user(name text, mechanism text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM kafka.user_keys k
    WHERE k.name = drop_user.name AND (drop_user.mechanism IS NULL OR k.mechanism = drop_user.mechanism);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no user "%"%', name, coalesce(' with ' || mechanism, '')
            USING ERRCODE = 'undefined_object', HINT = 'The users are in kafka.users.';
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.drop_user(text, text) IS
    'Remove a user, or one mechanism of it. Brokers close the connections that logged in by it within two seconds.';
