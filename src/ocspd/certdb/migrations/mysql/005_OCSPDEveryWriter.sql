-- +goose Up
-- The certificate of a row whose key identifier is no hex tells its issuer, so another one is a change.
-- +goose StatementBegin
CREATE TRIGGER ocspd_reissued AFTER UPDATE ON certificates FOR EACH ROW
changed: BEGIN
    DECLARE chosen int DEFAULT NULL;
    DECLARE u, r bigint DEFAULT NULL;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET chosen = NULL;
    IF OLD.pem = NEW.pem OR NEW.authority_key_identifier <> ''
        AND NOT CONVERT(NEW.authority_key_identifier USING latin1) COLLATE latin1_bin REGEXP '[^0-9a-f]'
    THEN
        LEAVE changed;
    END IF;
    SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots AS own
        WHERE slot = CONNECTION_ID() % 256 FOR UPDATE SKIP LOCKED;
    IF chosen IS NULL THEN
        SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots AS free LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    IF chosen IS NULL THEN
        SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots
            WHERE slot = CONNECTION_ID() % 256 FOR UPDATE;
    END IF;
    SET u = u + 1;
    UPDATE ocspd_slots SET urgent_n = u WHERE slot = chosen;
    INSERT INTO ocspd_changes (urgent, slot, n, serial_number, authority_key_identifier, changed_at, expiry)
        VALUES (1, chosen, u, NEW.serial_number, NEW.authority_key_identifier, UTC_TIMESTAMP(6), NULL);
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER ocspd_reissued;
