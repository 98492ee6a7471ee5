-- +goose Up
-- Works beside a CFSSL that is writing: locks are taken in the order of writers and readers.
LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE ocspd_feed IN ACCESS EXCLUSIVE MODE;
LOCK TABLE ocspd_changes IN ACCESS EXCLUSIVE MODE;

-- As 004 has it, and besides
--  * the certificate of a row whose key identifier is no hex tells its issuer, so another one is a change;
--  * the row that a subscriber of logical replication applies, for which no statement trigger runs;
--  * entries that are deleted, or all of them: who has not read them must hear of it.
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
    IF TG_RELID = :changes_name::regclass::oid THEN
        IF TG_OP = 'DELETE' THEN
            -- what ocspd itself trims is behind its mark by now
            UPDATE :feed SET truncated = pg_current_xact_id() WHERE EXISTS (
                SELECT FROM old_rows WHERE xid > trimmed AND xid <= pg_current_xact_id()
            );
        ELSE
            UPDATE :feed SET truncated = pg_current_xact_id();
        END IF;
        RETURN NULL;
    END IF;
    IF TG_RELID <> :watched_name::regclass::oid THEN
        IF NOT EXISTS (SELECT FROM pg_partition_ancestors(TG_RELID) WHERE relid = :watched_name::regclass) THEN
            RAISE EXCEPTION 'ocspd_note_change() is for the table % only', :watched_name
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END IF;
    IF TG_LEVEL = 'ROW' THEN
        IF TG_OP IN ('UPDATE', 'DELETE') THEN
            INSERT INTO :changes (urgent, serial_number, authority_key_identifier, expiry)
                SELECT true, OLD.serial_number, OLD.authority_key_identifier, OLD.expiry
                WHERE TG_OP = 'DELETE' OR OLD.serial_number <> NEW.serial_number
                OR OLD.authority_key_identifier <> NEW.authority_key_identifier;
        END IF;
        IF TG_OP IN ('INSERT', 'UPDATE') THEN
            INSERT INTO :changes (urgent, serial_number, authority_key_identifier)
                VALUES (NEW.status <> 'good'::bytea, NEW.serial_number, NEW.authority_key_identifier);
        END IF;
        PERFORM pg_notify('ocspd_changes', '');
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO :changes (urgent, serial_number, authority_key_identifier)
            SELECT status <> 'good'::bytea, serial_number, authority_key_identifier FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO :changes (urgent, serial_number, authority_key_identifier, expiry)
            SELECT expiry IS NULL OR expiry > now(), serial_number, authority_key_identifier, expiry FROM old_rows;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO :changes (urgent, serial_number, authority_key_identifier, expiry)
            SELECT changed.status <> 'good'::bytea OR changed.told_by IS NOT NULL,
                   changed.serial_number, changed.authority_key_identifier, NULL::timestamptz
            FROM (
                SELECT serial_number, authority_key_identifier, status, reason, revoked_at, expiry,
                       CASE WHEN encode(authority_key_identifier, 'escape') !~ '^[0-9a-f]+$' THEN pem END AS told_by
                FROM new_rows
                EXCEPT
                SELECT serial_number, authority_key_identifier, status, reason, revoked_at, expiry,
                       CASE WHEN encode(authority_key_identifier, 'escape') !~ '^[0-9a-f]+$' THEN pem END
                FROM old_rows
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
    body := replace(replace(body, ':watched_name', quote_literal(watched)), ':changes_name', quote_literal(changes));
    body := replace(replace(body, ':changes', changes), ':feed', feed);
    EXECUTE format('CREATE OR REPLACE FUNCTION ocspd_note_change() RETURNS trigger LANGUAGE plpgsql '
                   'SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', body);
END
$do$;
-- +goose StatementEnd

-- Only in sessions whose session_replication_role is replica, which those that apply a subscription are.
CREATE TRIGGER ocspd_applied AFTER INSERT OR UPDATE OR DELETE ON certificates
    FOR EACH ROW EXECUTE FUNCTION ocspd_note_change();
ALTER TABLE certificates ENABLE REPLICA TRIGGER ocspd_applied;

CREATE TRIGGER ocspd_emptied AFTER TRUNCATE ON ocspd_changes
    FOR EACH STATEMENT EXECUTE FUNCTION ocspd_note_change();
CREATE TRIGGER ocspd_removed AFTER DELETE ON ocspd_changes
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION ocspd_note_change();

-- +goose Down
-- The function stays: without these triggers it does what 004 has it do.
LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE ocspd_feed IN ACCESS EXCLUSIVE MODE;
LOCK TABLE ocspd_changes IN ACCESS EXCLUSIVE MODE;
DROP TRIGGER IF EXISTS ocspd_removed ON ocspd_changes;
DROP TRIGGER IF EXISTS ocspd_emptied ON ocspd_changes;
DROP TRIGGER IF EXISTS ocspd_applied ON certificates;
