-- +goose Up
-- Serials written with leading zeros, which CFSSL does not do: 7 has to be found when 007 is revoked.
-- Empty as a rule, so it costs nothing.
CREATE INDEX ocspd_certificates_zeros ON certificates (ltrim(CAST(substr(serial_number, 1, 201) AS TEXT), '0'))
    WHERE CAST(substr(serial_number, 1, 1) AS TEXT) = '0';
CREATE INDEX ocspd_ocsp_responses_zeros
    ON ocsp_responses (ltrim(CAST(substr(serial_number, 1, 201) AS TEXT), '0'))
    WHERE CAST(substr(serial_number, 1, 1) AS TEXT) = '0';

-- Rows that are not as CFSSL writes them (spelling.py has the same words).
CREATE INDEX ocspd_certificates_odd ON certificates (expiry) WHERE
    (typeof(serial_number) <> 'text' OR typeof(authority_key_identifier) <> 'text'
    OR serial_number = '' OR serial_number GLOB '*[^0-9]*' OR serial_number GLOB '0?*'
    OR length(serial_number) > 153
    OR authority_key_identifier = '' OR authority_key_identifier GLOB '*[^0-9a-f]*'
    OR expiry IS NULL OR typeof(expiry) <> 'text' OR expiry NOT GLOB '[0-9][0-9][0-9][0-9]-*');

-- `urgent`: to be answered before everything else that waits, because a "good" is no longer true.
-- `expiry`: when the certificate that is gone would have expired.
ALTER TABLE ocspd_changes ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ocspd_changes ADD COLUMN expiry blob;
CREATE INDEX ocspd_changes_urgent ON ocspd_changes (urgent, id);

DROP TRIGGER ocspd_insert;
DROP TRIGGER ocspd_update;
DROP TRIGGER ocspd_delete;

-- +goose StatementBegin
CREATE TRIGGER ocspd_insert AFTER INSERT ON certificates
BEGIN
    INSERT INTO ocspd_changes (urgent, serial_number, authority_key_identifier)
        VALUES (NEW.status IS NOT 'good', NEW.serial_number, NEW.authority_key_identifier);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER ocspd_update
AFTER UPDATE OF serial_number, authority_key_identifier, status, reason, revoked_at, expiry ON certificates
BEGIN
    INSERT INTO ocspd_changes (urgent, serial_number, authority_key_identifier)
        VALUES (NEW.status IS NOT 'good', NEW.serial_number, NEW.authority_key_identifier);
    INSERT INTO ocspd_changes (urgent, serial_number, authority_key_identifier, expiry)
        SELECT 1, OLD.serial_number, OLD.authority_key_identifier, OLD.expiry
        WHERE OLD.serial_number IS NOT NEW.serial_number
           OR OLD.authority_key_identifier IS NOT NEW.authority_key_identifier;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER ocspd_delete AFTER DELETE ON certificates
BEGIN
    INSERT INTO ocspd_changes (urgent, serial_number, authority_key_identifier, expiry)
        VALUES (typeof(OLD.expiry) <> 'text' OR OLD.expiry > strftime('%Y-%m-%d %H:%M:%S', 'now'),
                OLD.serial_number, OLD.authority_key_identifier, OLD.expiry);
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER ocspd_delete;
DROP TRIGGER ocspd_update;
DROP TRIGGER ocspd_insert;
DROP INDEX ocspd_changes_urgent;
ALTER TABLE ocspd_changes DROP COLUMN expiry;
ALTER TABLE ocspd_changes DROP COLUMN urgent;
DROP INDEX ocspd_certificates_odd;
DROP INDEX ocspd_ocsp_responses_zeros;
DROP INDEX ocspd_certificates_zeros;

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
