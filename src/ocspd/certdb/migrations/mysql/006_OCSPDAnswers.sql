-- +goose Up
-- Requests to sign that came with an Idempotency-Key, and the certificates they were answered with: who asks
-- again gets the same one. Keys and requests are here as SHA-256.
CREATE TABLE ocspd_answers (
    request_key              varbinary(255) NOT NULL PRIMARY KEY,
    digest                   varbinary(255) NOT NULL,
    serial_number            varbinary(255) NOT NULL,
    authority_key_identifier varbinary(255) NOT NULL,
    expires_at               datetime NOT NULL,
    KEY ocspd_answers_expiry (expires_at)
) ENGINE = InnoDB;

-- +goose Down
DROP TABLE ocspd_answers;
