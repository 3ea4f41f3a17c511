-- A database of schema version 1, as usbbridge would have left it.
PRAGMA application_id = 1970496114;
PRAGMA user_version = 1;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE source_rules (position INTEGER PRIMARY KEY, place TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE local_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, position INTEGER NOT NULL, body TEXT NOT NULL);
INSERT INTO meta VALUES ('sources', '0.0.1 50-old.toml:10:00000000'), ('generation', '4');
INSERT INTO source_rules VALUES (0, '50-old.toml:1', '{"class": "08", "verdict": "deny"}');
INSERT INTO local_rules VALUES (3, 7, '{"id": "0781:5567", "verdict": "connect", "note": "mine"}');
INSERT INTO local_rules VALUES (5, -1, '{"serial": "4C53*", "verdict": "deny"}');
