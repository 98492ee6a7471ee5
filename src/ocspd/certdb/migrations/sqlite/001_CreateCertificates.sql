-- +goose Up
-- CFSSL's tables. Serial numbers are decimal, key identifiers lower-case hex; the values are bound as
-- TEXT, which a column declared blob leaves alone. (Declared bytea, it would make numbers of them.)
CREATE TABLE certificates (
    serial_number            blob NOT NULL,
    authority_key_identifier blob NOT NULL,
    ca_label                 blob,
    status                   blob NOT NULL,
    reason                   int,
    expiry                   timestamp,
    revoked_at               timestamp,
    pem                      blob NOT NULL,
    PRIMARY KEY (serial_number, authority_key_identifier)
);

CREATE TABLE ocsp_responses (
    serial_number            blob NOT NULL,
    authority_key_identifier blob NOT NULL,
    body                     blob NOT NULL,
    expiry                   timestamp,
    PRIMARY KEY (serial_number, authority_key_identifier),
    FOREIGN KEY (serial_number, authority_key_identifier)
        REFERENCES certificates (serial_number, authority_key_identifier)
);

-- +goose Down
DROP TABLE ocsp_responses;
DROP TABLE certificates;
