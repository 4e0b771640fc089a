# Files and databases: open handles, connections, JSON, shell commands, settings of the process.
# %%
import json, os, pathlib, sqlite3, tempfile
folder = pathlib.Path("made")
folder.mkdir(exist_ok=True)
os.environ["NBFLOW_GALLERY"] = "yes"
# %%
path = folder / "data.json"
path.write_text(json.dumps({"a": [1, 2], "b": None}))
loaded = json.loads(path.read_text())
loaded
# %%
connection = sqlite3.connect(":memory:")
connection.execute("create table t (n int)")
connection.executemany("insert into t values (?)", [(n,) for n in range(4)])
connection.execute("select sum(n) from t").fetchone()
# %%
rows = connection.execute("select n from t where n > 1").fetchall()
rows
# %%
stream = open(path)
head = stream.read(4)
head
# %%
rest = stream.read()
stream.close()
rest, stream.closed
# %%
!echo from the shell
listed = !ls made
listed
# %%
name = "made"
found = !ls {name} | wc -l
int(found[0])
# %%
%env NBFLOW_GALLERY_TWO=two
os.environ["NBFLOW_GALLERY"], os.environ["NBFLOW_GALLERY_TWO"]
# %%
sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
connection.close()
sizes
