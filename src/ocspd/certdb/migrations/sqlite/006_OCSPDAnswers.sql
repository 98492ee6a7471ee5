-- +goose Up
-- Requests to sign that came with an Idempotency-Key, and the certificates they were answered with: who asks
-- again gets the same one. Keys and requests are here as SHA-256.
CREATE TABLE ocspd_answers (
    request_key              blob PRIMARY KEY,
    digest                   blob NOT NULL,
    serial_number            blob NOT NULL,
    authority_key_identifier blob NOT NULL,
    expires_at               timestamp NOT NULL
);
CREATE INDEX ocspd_answers_expiry ON ocspd_answers (expires_at);

-- +goose Down
DROP TABLE ocspd_answers;
