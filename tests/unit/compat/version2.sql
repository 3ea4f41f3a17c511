-- A database of schema version 2: outcomes, not counted yet.
PRAGMA application_id = 1970496114;
PRAGMA user_version = 2;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE source_rules (position INTEGER PRIMARY KEY, place TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE local_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, position INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE outcomes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,
    vendor INTEGER NOT NULL, product INTEGER NOT NULL, bcd_device INTEGER NOT NULL,
    result TEXT NOT NULL, error TEXT NOT NULL, message TEXT NOT NULL,
    resets INTEGER NOT NULL, seconds REAL NOT NULL);
CREATE INDEX outcomes_of_model ON outcomes (vendor, product, bcd_device, at);
INSERT INTO meta VALUES ('sources', '0.0.1 50-old.toml:10:00000000'), ('generation', '4');
INSERT INTO source_rules VALUES (0, '50-old.toml:1', '{"class": "08", "verdict": "deny"}');
INSERT INTO local_rules VALUES (3, 7, '{"id": "0781:5567", "verdict": "connect", "note": "mine"}');
INSERT INTO local_rules VALUES (5, -1, '{"serial": "4C53*", "verdict": "deny"}');
INSERT INTO outcomes VALUES (1, 100.0, 1921, 21863, 256, 'attached', '', '', 0, 0.0);
INSERT INTO outcomes VALUES (2, 160.0, 1921, 21863, 256, 'ended', '', '', 3, 60.0);
INSERT INTO outcomes VALUES (3, 200.0, 1921, 21863, 256, 'failed', 'DeviceError', 'no reset', 1, 0.5);
