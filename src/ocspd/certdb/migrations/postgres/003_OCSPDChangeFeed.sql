-- +goose Up
-- Needs PostgreSQL 13 (xid8). Nothing here changes a table of CFSSL.
CREATE INDEX ocspd_certificates_revoked ON certificates (expiry) WHERE status = 'revoked';
CREATE INDEX ocspd_certificates_issuer ON certificates (authority_key_identifier, expiry);
CREATE INDEX ocspd_ocsp_responses_expiry ON ocsp_responses (expiry);

-- What changed. `xid` is the writing transaction: readers compare it with a snapshot, because
-- transactions do not commit in the order of any sequence.
CREATE TABLE ocspd_changes (
    xid                      xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id                       bigint GENERATED ALWAYS AS IDENTITY,
    serial_number            bytea NOT NULL,
    authority_key_identifier bytea NOT NULL,
    changed_at               timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (xid, id)
);

-- One row: no change of a transaction up to `trimmed` can be relied on to be still there.
CREATE TABLE ocspd_feed (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    trimmed  xid8 NOT NULL
);
INSERT INTO ocspd_feed (trimmed) VALUES ('0');

-- SECURITY DEFINER: a CFSSL that connects with another role needs no rights on our tables.
-- +goose StatementBegin
CREATE FUNCTION ocspd_note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
            SELECT serial_number, authority_key_identifier FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
            SELECT serial_number, authority_key_identifier FROM old_rows;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
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
        -- TRUNCATE: every cursor older than this transaction is lost.
        UPDATE ocspd_feed SET trimmed = pg_current_xact_id();
    END IF;
    IF FOUND THEN
        PERFORM pg_notify('ocspd_changes', '');
    END IF;
    RETURN NULL;
END
$body$;
-- +goose StatementEnd

-- The function finds our tables whatever search_path the writer has set.
-- +goose StatementBegin
DO $do$
BEGIN
    EXECUTE format('ALTER FUNCTION ocspd_note_change() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$do$;
-- +goose StatementEnd

CREATE TRIGGER ocspd_insert AFTER INSERT ON certificates
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION ocspd_note_change();
CREATE TRIGGER ocspd_update AFTER UPDATE ON certificates
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION ocspd_note_change();
CREATE TRIGGER ocspd_delete AFTER DELETE ON certificates
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION ocspd_note_change();
CREATE TRIGGER ocspd_truncate AFTER TRUNCATE ON certificates
    FOR EACH STATEMENT EXECUTE FUNCTION ocspd_note_change();

-- +goose Down
DROP TRIGGER ocspd_truncate ON certificates;
DROP TRIGGER ocspd_delete ON certificates;
DROP TRIGGER ocspd_update ON certificates;
DROP TRIGGER ocspd_insert ON certificates;
DROP FUNCTION ocspd_note_change();
DROP TABLE ocspd_feed;
DROP TABLE ocspd_changes;
DROP INDEX ocspd_ocsp_responses_expiry;
DROP INDEX ocspd_certificates_issuer;
DROP INDEX ocspd_certificates_revoked;
