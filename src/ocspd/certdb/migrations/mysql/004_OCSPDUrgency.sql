-- +goose Up
CREATE INDEX ocspd_certificates_issuer ON certificates (authority_key_identifier, expiry);
CREATE INDEX ocspd_ocsp_responses_expiry ON ocsp_responses (expiry);

-- +goose Down
DROP INDEX ocspd_ocsp_responses_expiry ON ocsp_responses;
DROP INDEX ocspd_certificates_issuer ON certificates;
