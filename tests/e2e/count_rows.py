"""Runs in the client machine: the rows in each table of a SQLite database as JSON, and whether it is sound.

python -I -S count_rows.py DATABASE
"""

import json
import sqlite3
import sys

connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
print(json.dumps({"sound": connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "rows": counts}))
