-- +goose Up
-- Nothing here changes a table of CFSSL.
CREATE INDEX ocspd_certificates_revoked ON certificates (expiry) WHERE status = 'revoked';
CREATE INDEX ocspd_certificates_issuer ON certificates (authority_key_identifier, expiry);
CREATE INDEX ocspd_ocsp_responses_expiry ON ocsp_responses (expiry);

-- What changed. SQLite has one writer at a time, so ids are in order of commit; AUTOINCREMENT never
-- uses an id again.
CREATE TABLE ocspd_changes (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT,
    serial_number            blob NOT NULL,
    authority_key_identifier blob NOT NULL,
    changed_at               text NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);

-- One row: ids up to `trimmed` may be gone; `source` tells this database from any other.
CREATE TABLE ocspd_feed (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    trimmed  INTEGER NOT NULL,
    source   text NOT NULL
);
INSERT INTO ocspd_feed (only_row, trimmed, source) VALUES (1, 0, lower(hex(randomblob(8))));

-- +goose StatementBegin
CREATE TRIGGER ocspd_insert AFTER INSERT ON certificates
BEGIN
    INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
        VALUES (NEW.serial_number, NEW.authority_key_identifier);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER ocspd_update
AFTER UPDATE OF serial_number, authority_key_identifier, status, reason, revoked_at, expiry ON certificates
BEGIN
    INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
        VALUES (NEW.serial_number, NEW.authority_key_identifier);
    INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
        SELECT OLD.serial_number, OLD.authority_key_identifier
        WHERE OLD.serial_number <> NEW.serial_number
           OR OLD.authority_key_identifier <> NEW.authority_key_identifier;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER ocspd_delete AFTER DELETE ON certificates
BEGIN
    INSERT INTO ocspd_changes (serial_number, authority_key_identifier)
        VALUES (OLD.serial_number, OLD.authority_key_identifier);
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER ocspd_delete;
DROP TRIGGER ocspd_update;
DROP TRIGGER ocspd_insert;
DROP TABLE ocspd_feed;
DROP TABLE ocspd_changes;
DROP INDEX ocspd_ocsp_responses_expiry;
DROP INDEX ocspd_certificates_issuer;
DROP INDEX ocspd_certificates_revoked;
