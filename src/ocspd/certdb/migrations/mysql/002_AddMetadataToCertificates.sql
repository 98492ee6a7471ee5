-- +goose Up
ALTER TABLE certificates ADD COLUMN issued_at timestamp DEFAULT '0000-00-00 00:00:00';
ALTER TABLE certificates ADD COLUMN not_before timestamp DEFAULT '0000-00-00 00:00:00';
ALTER TABLE certificates ADD COLUMN metadata JSON;
ALTER TABLE certificates ADD COLUMN sans JSON;
ALTER TABLE certificates ADD COLUMN common_name text;

-- +goose Down
ALTER TABLE certificates DROP COLUMN common_name;
ALTER TABLE certificates DROP COLUMN sans;
ALTER TABLE certificates DROP COLUMN metadata;
ALTER TABLE certificates DROP COLUMN not_before;
ALTER TABLE certificates DROP COLUMN issued_at;
