-- +goose Up
-- The certificate of a row whose key identifier is no hex tells its issuer, so another one is a change.
-- +goose StatementBegin
CREATE TRIGGER ocspd_reissued AFTER UPDATE OF pem ON certificates
WHEN OLD.pem IS NOT NEW.pem AND (typeof(NEW.authority_key_identifier) <> 'text'
    OR NEW.authority_key_identifier = '' OR NEW.authority_key_identifier GLOB '*[^0-9a-f]*')
BEGIN
    INSERT INTO ocspd_changes (urgent, serial_number, authority_key_identifier)
        VALUES (1, NEW.serial_number, NEW.authority_key_identifier);
END;
-- +goose StatementEnd

-- Entries that somebody deletes: who has not read them must hear of it.
-- +goose StatementBegin
CREATE TRIGGER ocspd_removed AFTER DELETE ON ocspd_changes WHEN OLD.id > (SELECT trimmed FROM ocspd_feed)
BEGIN
    UPDATE ocspd_feed SET trimmed = OLD.id;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER IF EXISTS ocspd_removed;
DROP TRIGGER IF EXISTS ocspd_reissued;
