-- +goose Up
ALTER TABLE certificates ADD COLUMN issued_at timestamp;
ALTER TABLE certificates ADD COLUMN not_before timestamp;
ALTER TABLE certificates ADD COLUMN metadata text;
ALTER TABLE certificates ADD COLUMN sans text;
ALTER TABLE certificates ADD COLUMN common_name text;

-- +goose Down
-- CFSSL's own Down does nothing here, after which its Up fails; SQLite 3.35 can drop columns.
ALTER TABLE certificates DROP COLUMN issued_at;
ALTER TABLE certificates DROP COLUMN not_before;
ALTER TABLE certificates DROP COLUMN metadata;
ALTER TABLE certificates DROP COLUMN sans;
ALTER TABLE certificates DROP COLUMN common_name;
