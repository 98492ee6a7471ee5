-- +goose Up
-- Works beside a CFSSL that is writing: locks are taken in the order of writers and readers.
LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE ocsp_responses IN SHARE MODE;
LOCK TABLE ocspd_feed IN ACCESS EXCLUSIVE MODE;
LOCK TABLE ocspd_changes IN ACCESS EXCLUSIVE MODE;

-- Serials written with leading zeros, which CFSSL does not do: 7 has to be found when 007 is revoked.
-- Empty as a rule, so it costs nothing.
CREATE INDEX ocspd_certificates_zeros
    ON certificates (ltrim(encode(substr(serial_number, 1, 201), 'escape'), '0'))
    WHERE substr(serial_number, 1, 1) = '\x30'::bytea;
CREATE INDEX ocspd_ocsp_responses_zeros
    ON ocsp_responses (ltrim(encode(substr(serial_number, 1, 201), 'escape'), '0'))
    WHERE substr(serial_number, 1, 1) = '\x30'::bytea;

-- Rows that are not as CFSSL writes them (spelling.py has the same words).
CREATE INDEX ocspd_certificates_odd ON certificates (expiry) WHERE
    (encode(serial_number, 'escape') !~ '^(0|[1-9][0-9]{0,152})$'
    OR encode(authority_key_identifier, 'escape') !~ '^[0-9a-f]+$'
    OR expiry IS NULL);

-- `urgent`: to be answered before everything else that waits, because a "good" is no longer true.
-- `expiry`: when the certificate that is gone would have expired.
ALTER TABLE ocspd_changes ADD COLUMN urgent boolean NOT NULL DEFAULT false;
ALTER TABLE ocspd_changes ADD COLUMN expiry timestamptz;
ALTER TABLE ocspd_changes DROP CONSTRAINT ocspd_changes_pkey;
ALTER TABLE ocspd_changes ADD PRIMARY KEY (urgent, xid, id);

-- The transaction of the last TRUNCATE: a cursor that has not seen it is lost, a later one is not.
ALTER TABLE ocspd_feed ADD COLUMN truncated xid8 NOT NULL DEFAULT '0';

-- SECURITY DEFINER, so that a CFSSL that connects with another role needs no rights on our tables. What
-- runs with the owner's rights is fixed here: every table by its full name, operators and functions of
-- pg_catalog only, on the columns of this one table; and nobody else may make a trigger of it.
-- +goose StatementBegin
DO $do$
DECLARE
    changes text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'ocspd_changes'::regclass);
    feed text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'ocspd_feed'::regclass);
    watched text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'certificates'::regclass);
    body text := $body$
BEGIN
    IF TG_RELID <> :watched_name::regclass::oid THEN
        RAISE EXCEPTION 'ocspd_note_change() is for the table % only', :watched_name
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO :changes (urgent, serial_number, authority_key_identifier)
            SELECT status <> 'good'::bytea, serial_number, authority_key_identifier FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO :changes (urgent, serial_number, authority_key_identifier, expiry)
            SELECT expiry IS NULL OR expiry > now(), serial_number, authority_key_identifier, expiry FROM old_rows;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO :changes (urgent, serial_number, authority_key_identifier, expiry)
            SELECT changed.status <> 'good'::bytea, changed.serial_number, changed.authority_key_identifier,
                   NULL::timestamptz
            FROM (
                SELECT serial_number, authority_key_identifier, status, reason, revoked_at, expiry FROM new_rows
                EXCEPT
                SELECT serial_number, authority_key_identifier, status, reason, revoked_at, expiry FROM old_rows
            ) AS changed
            UNION ALL
            SELECT true, o.serial_number, o.authority_key_identifier, o.expiry FROM old_rows AS o
            WHERE NOT EXISTS (
                SELECT FROM new_rows AS n WHERE n.serial_number = o.serial_number
                AND n.authority_key_identifier = o.authority_key_identifier
            );
    ELSE
        UPDATE :feed SET truncated = pg_current_xact_id();
    END IF;
    IF FOUND THEN
        PERFORM pg_notify('ocspd_changes', '');
    END IF;
    RETURN NULL;
END
$body$;
BEGIN
    body := replace(replace(replace(body, ':watched_name', quote_literal(watched)), ':changes', changes), ':feed', feed);
    EXECUTE format('CREATE OR REPLACE FUNCTION ocspd_note_change() RETURNS trigger LANGUAGE plpgsql '
                   'SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', body);
END
$do$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION ocspd_note_change() FROM PUBLIC;
REVOKE ALL ON TABLE ocspd_changes, ocspd_feed FROM PUBLIC;
REVOKE ALL ON SEQUENCE ocspd_changes_id_seq FROM PUBLIC;

-- Whoever owns certificates decides what its columns are, so the function gets no more rights than the
-- owner has: a superuser who ran this would lend them otherwise.
-- +goose StatementBegin
DO $do$
DECLARE
    owner name := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'certificates'::regclass);
BEGIN
    IF owner <> current_user THEN
        EXECUTE format('ALTER TABLE ocspd_changes OWNER TO %I', owner);
        EXECUTE format('ALTER TABLE ocspd_feed OWNER TO %I', owner);
        EXECUTE format('ALTER FUNCTION ocspd_note_change() OWNER TO %I', owner);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    -- no superuser, so nothing of the kind is lent; the owner may not create in this schema
    RAISE NOTICE 'tables of ocspd stay with %', current_user;
END
$do$;
-- +goose StatementEnd

-- Also where session_replication_role is replica, as in the sessions of some replication and import tools.
ALTER TABLE certificates ENABLE ALWAYS TRIGGER ocspd_insert;
ALTER TABLE certificates ENABLE ALWAYS TRIGGER ocspd_update;
ALTER TABLE certificates ENABLE ALWAYS TRIGGER ocspd_delete;
ALTER TABLE certificates ENABLE ALWAYS TRIGGER ocspd_truncate;

-- +goose Down
LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE ocsp_responses IN SHARE MODE;
LOCK TABLE ocspd_feed IN ACCESS EXCLUSIVE MODE;
LOCK TABLE ocspd_changes IN ACCESS EXCLUSIVE MODE;
ALTER TABLE certificates ENABLE TRIGGER ocspd_truncate;
ALTER TABLE certificates ENABLE TRIGGER ocspd_delete;
ALTER TABLE certificates ENABLE TRIGGER ocspd_update;
ALTER TABLE certificates ENABLE TRIGGER ocspd_insert;

-- What 003 notes; that only the triggers of this one table may run it stays.
-- +goose StatementBegin
DO $do$
DECLARE
    changes text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'ocspd_changes'::regclass);
    feed text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'ocspd_feed'::regclass);
    watched text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'certificates'::regclass);
    body text := $body$
BEGIN
    IF TG_RELID <> :watched_name::regclass::oid THEN
        RAISE EXCEPTION 'ocspd_note_change() is for the table % only', :watched_name
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO :changes (serial_number, authority_key_identifier)
            SELECT serial_number, authority_key_identifier FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO :changes (serial_number, authority_key_identifier)
            SELECT serial_number, authority_key_identifier FROM old_rows;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO :changes (serial_number, authority_key_identifier)
            SELECT serial_number, authority_key_identifier FROM (
                SELECT serial_number, authority_key_identifier, status, reason, revoked_at, expiry FROM new_rows
                EXCEPT
                SELECT serial_number, authority_key_identifier, status, reason, revoked_at, expiry FROM old_rows
            ) AS changed
            UNION ALL (
                SELECT serial_number, authority_key_identifier FROM old_rows
                EXCEPT
                SELECT serial_number, authority_key_identifier FROM new_rows
            );
    ELSE
        UPDATE :feed SET trimmed = pg_current_xact_id();
    END IF;
    IF FOUND THEN
        PERFORM pg_notify('ocspd_changes', '');
    END IF;
    RETURN NULL;
END
$body$;
BEGIN
    body := replace(replace(replace(body, ':watched_name', quote_literal(watched)), ':changes', changes), ':feed', feed);
    EXECUTE format('CREATE OR REPLACE FUNCTION ocspd_note_change() RETURNS trigger LANGUAGE plpgsql '
                   'SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', body);
END
$do$;
-- +goose StatementEnd

ALTER TABLE ocspd_feed DROP COLUMN truncated;
ALTER TABLE ocspd_changes DROP CONSTRAINT ocspd_changes_pkey;
ALTER TABLE ocspd_changes ADD PRIMARY KEY (xid, id);
ALTER TABLE ocspd_changes DROP COLUMN expiry;
ALTER TABLE ocspd_changes DROP COLUMN urgent;
DROP INDEX ocspd_certificates_odd;
DROP INDEX ocspd_ocsp_responses_zeros;
DROP INDEX ocspd_certificates_zeros;
