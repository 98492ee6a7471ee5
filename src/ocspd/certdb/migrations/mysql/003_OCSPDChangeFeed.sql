-- +goose Up
-- Columns that hold what CFSSL writes into them: times after 2038-01-19, and in any time zone as they were given;
-- certificates and responses of more than 4096 bytes; serial numbers of 64 bytes. CFSSL reads and writes them as before.
ALTER TABLE certificates
    MODIFY serial_number varbinary(255) NOT NULL,
    MODIFY authority_key_identifier varbinary(255) NOT NULL,
    MODIFY expiry datetime DEFAULT '0000-00-00 00:00:00',
    MODIFY revoked_at datetime DEFAULT '0000-00-00 00:00:00',
    MODIFY issued_at datetime DEFAULT '0000-00-00 00:00:00',
    MODIFY not_before datetime DEFAULT '0000-00-00 00:00:00',
    MODIFY pem mediumblob NOT NULL;
ALTER TABLE ocsp_responses
    MODIFY serial_number varbinary(255) NOT NULL,
    MODIFY authority_key_identifier varbinary(255) NOT NULL,
    MODIFY expiry datetime DEFAULT '0000-00-00 00:00:00',
    MODIFY body mediumblob NOT NULL;

-- What changed. A transaction numbers its entries from the counters of a slot, whose row it keeps locked until it
-- ends: so in a slot numbers are committed in their order and without gaps, whatever order transactions commit in
-- (docs/decisions/0018). A writer takes any slot that nobody has locked, so none waits for another. The aliases in
-- the triggers matter: under one name MariaDB locks a table in one way for the whole statement, and would wait.
CREATE TABLE ocspd_slots (
    slot     int NOT NULL PRIMARY KEY,
    urgent_n bigint NOT NULL DEFAULT 0,
    rest_n   bigint NOT NULL DEFAULT 0
) ENGINE = InnoDB;
INSERT INTO ocspd_slots (slot)
    SELECT a.n * 16 + b.n FROM
    (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6
     UNION SELECT 7 UNION SELECT 8 UNION SELECT 9 UNION SELECT 10 UNION SELECT 11 UNION SELECT 12
     UNION SELECT 13 UNION SELECT 14 UNION SELECT 15) AS a,
    (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6
     UNION SELECT 7 UNION SELECT 8 UNION SELECT 9 UNION SELECT 10 UNION SELECT 11 UNION SELECT 12
     UNION SELECT 13 UNION SELECT 14 UNION SELECT 15) AS b;

-- `urgent`: to be answered before everything else that waits, because a "good" is no longer true.
-- `expiry`: when the certificate that is gone would have expired. `changed_at` is UTC.
CREATE TABLE ocspd_changes (
    urgent                   tinyint NOT NULL,
    slot                     int NOT NULL,
    n                        bigint NOT NULL,
    serial_number            varbinary(255) NOT NULL,
    authority_key_identifier varbinary(255) NOT NULL,
    changed_at               datetime(6) NOT NULL,
    expiry                   datetime,
    PRIMARY KEY (urgent, slot, n)
) ENGINE = InnoDB;

-- One row: `source` tells this database from any other.
CREATE TABLE ocspd_feed (
    only_row int NOT NULL PRIMARY KEY,
    source   varchar(64) NOT NULL
) ENGINE = InnoDB;
INSERT INTO ocspd_feed (only_row, source) VALUES (1, UUID());

-- They run with the rights of who makes them: a CFSSL that connects as another user needs none on our tables.
-- +goose StatementBegin
CREATE TRIGGER ocspd_insert AFTER INSERT ON certificates FOR EACH ROW
BEGIN
    DECLARE chosen int DEFAULT NULL;
    DECLARE u, r bigint DEFAULT NULL;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET chosen = NULL;
    SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots AS own
        WHERE slot = CONNECTION_ID() % 256 FOR UPDATE SKIP LOCKED;
    IF chosen IS NULL THEN
        SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots AS free LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    IF chosen IS NULL THEN
        SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots
            WHERE slot = CONNECTION_ID() % 256 FOR UPDATE;
    END IF;
    IF NEW.status <> 'good' THEN
        SET u = u + 1;
        UPDATE ocspd_slots SET urgent_n = u WHERE slot = chosen;
    ELSE
        SET r = r + 1;
        UPDATE ocspd_slots SET rest_n = r WHERE slot = chosen;
    END IF;
    INSERT INTO ocspd_changes (urgent, slot, n, serial_number, authority_key_identifier, changed_at, expiry)
        VALUES (NEW.status <> 'good', chosen, IF(NEW.status <> 'good', u, r), NEW.serial_number, NEW.authority_key_identifier,
                UTC_TIMESTAMP(6), NULL);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER ocspd_update AFTER UPDATE ON certificates FOR EACH ROW
changed: BEGIN
    DECLARE chosen int DEFAULT NULL;
    DECLARE u, r bigint DEFAULT NULL;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET chosen = NULL;
    IF OLD.serial_number = NEW.serial_number AND OLD.authority_key_identifier = NEW.authority_key_identifier
        AND OLD.status = NEW.status AND OLD.reason <=> NEW.reason AND OLD.revoked_at <=> NEW.revoked_at
        AND OLD.expiry <=> NEW.expiry
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
    IF NEW.status <> 'good' THEN
        SET u = u + 1;
        UPDATE ocspd_slots SET urgent_n = u WHERE slot = chosen;
    ELSE
        SET r = r + 1;
        UPDATE ocspd_slots SET rest_n = r WHERE slot = chosen;
    END IF;
    INSERT INTO ocspd_changes (urgent, slot, n, serial_number, authority_key_identifier, changed_at, expiry)
        VALUES (NEW.status <> 'good', chosen, IF(NEW.status <> 'good', u, r), NEW.serial_number, NEW.authority_key_identifier,
                UTC_TIMESTAMP(6), NULL);
    IF OLD.serial_number <> NEW.serial_number OR OLD.authority_key_identifier <> NEW.authority_key_identifier THEN
        SET u = u + 1;
        UPDATE ocspd_slots SET urgent_n = u WHERE slot = chosen;
        INSERT INTO ocspd_changes (urgent, slot, n, serial_number, authority_key_identifier, changed_at, expiry)
            VALUES (1, chosen, u, OLD.serial_number, OLD.authority_key_identifier, UTC_TIMESTAMP(6), OLD.expiry);
    END IF;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER ocspd_delete AFTER DELETE ON certificates FOR EACH ROW
BEGIN
    DECLARE chosen int DEFAULT NULL;
    DECLARE u, r bigint DEFAULT NULL;
    DECLARE hot tinyint DEFAULT OLD.expiry IS NULL OR OLD.expiry = '0000-00-00 00:00:00'
        OR OLD.expiry > UTC_TIMESTAMP();
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET chosen = NULL;
    SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots AS own
        WHERE slot = CONNECTION_ID() % 256 FOR UPDATE SKIP LOCKED;
    IF chosen IS NULL THEN
        SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots AS free LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    IF chosen IS NULL THEN
        SELECT slot, urgent_n, rest_n INTO chosen, u, r FROM ocspd_slots
            WHERE slot = CONNECTION_ID() % 256 FOR UPDATE;
    END IF;
    IF hot THEN
        SET u = u + 1;
        UPDATE ocspd_slots SET urgent_n = u WHERE slot = chosen;
    ELSE
        SET r = r + 1;
        UPDATE ocspd_slots SET rest_n = r WHERE slot = chosen;
    END IF;
    INSERT INTO ocspd_changes (urgent, slot, n, serial_number, authority_key_identifier, changed_at, expiry)
        VALUES (hot, chosen, IF(hot, u, r), OLD.serial_number, OLD.authority_key_identifier,
                UTC_TIMESTAMP(6), OLD.expiry);
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER ocspd_delete;
DROP TRIGGER ocspd_update;
DROP TRIGGER ocspd_insert;
DELETE FROM ocspd_feed;
DROP TABLE ocspd_feed;
DROP TABLE ocspd_changes;
DELETE FROM ocspd_slots;
DROP TABLE ocspd_slots;
ALTER TABLE ocsp_responses
    MODIFY body varbinary(4096) NOT NULL,
    MODIFY expiry timestamp DEFAULT '0000-00-00 00:00:00',
    MODIFY authority_key_identifier varbinary(128) NOT NULL,
    MODIFY serial_number varbinary(128) NOT NULL;
ALTER TABLE certificates
    MODIFY pem varbinary(4096) NOT NULL,
    MODIFY not_before timestamp DEFAULT '0000-00-00 00:00:00',
    MODIFY issued_at timestamp DEFAULT '0000-00-00 00:00:00',
    MODIFY revoked_at timestamp DEFAULT '0000-00-00 00:00:00',
    MODIFY expiry timestamp DEFAULT '0000-00-00 00:00:00',
    MODIFY authority_key_identifier varbinary(128) NOT NULL,
    MODIFY serial_number varbinary(128) NOT NULL;
