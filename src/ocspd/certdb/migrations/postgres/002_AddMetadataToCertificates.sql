-- +goose Up
ALTER TABLE certificates ADD COLUMN issued_at timestamptz;
ALTER TABLE certificates ADD COLUMN not_before timestamptz;
ALTER TABLE certificates ADD COLUMN metadata jsonb;
ALTER TABLE certificates ADD COLUMN sans jsonb;
ALTER TABLE certificates ADD COLUMN common_name text;

-- +goose Down
ALTER TABLE certificates DROP COLUMN issued_at;
ALTER TABLE certificates DROP COLUMN not_before;
ALTER TABLE certificates DROP COLUMN metadata;
ALTER TABLE certificates DROP COLUMN sans;
ALTER TABLE certificates DROP COLUMN common_name;
