"""32 processes log to one store at the same instant: every run, row, parameter, tag and file is there, once."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy

from tests.integration import many_writers as writers
from tests.integration.servers import mlflow_server, postgres

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300)]

WRITERS = 32


def write_all(uri: str, folder: Path) -> None:
    """Run the writers, and see that all ended well and said nothing."""
    command = [sys.executable, "-m", "tests.integration.many_writers", uri, str(folder), str(WRITERS)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    said = {file.name: file.read_text() for file in folder.glob("*.txt")}
    assert len(said) == WRITERS
    assert "database is locked" not in str(said)
    assert {file: text for file, text in said.items() if text} == {}
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def count_all(uri: str, artifacts: Path) -> int:
    """Hold the database's own rows, and the artifact files, against what was written; returns the number of rows."""
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:

        def table(columns: str) -> list[tuple]:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(f"SELECT {columns}"))]

        runs = table("run_uuid, name, status FROM runs")
        experiments = [name for (name,) in table("name FROM experiments")]
        metrics = table("run_uuid, key, step, value FROM metrics")
        params = table("run_uuid, key, value FROM params")
        tags = table("run_uuid, key, value FROM tags")
        latest = table("run_uuid, key, step, value FROM latest_metrics")
        inputs = table("destination_id FROM inputs")
    engine.dispose()
    names = {id: name for id, name, _ in runs}
    assert sorted((name, status) for _, name, status in runs) == [(writers.name(w), "FINISHED") for w in range(WRITERS)]
    assert Counter(experiments)[writers.EXPERIMENT] == 1
    assert sorted(id for (id,) in inputs) == sorted(names)
    for id, name in names.items():
        writer = int(name.removeprefix("writer-"))
        mine = [((key, step), value) for run, key, step, value in metrics if run == id]
        assert len(mine) == len(dict(mine)) and dict(mine) == writers.rows(writer)
        last = {key: value for (key, _), value in sorted(writers.rows(writer).items(), key=lambda row: row[0][1])}
        assert {key: value for run, key, _, value in latest if run == id} == last
        assert dict(row[1:] for row in params if row[0] == id) == writers.params(writer)
        expected = writers.tags(writer) | {"ended": str(writer)}
        assert expected.items() <= dict(row[1:] for row in tags if row[0] == id).items()
        (folder,) = artifacts.glob(f"*/{id}/artifacts")
        assert {file.name: file.read_text() for file in folder.iterdir()} == writers.files(writer)
    return len(metrics) + len(params) + len(tags)


def test_one_sqlite_file_that_does_not_exist_yet(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write_all(uri, tmp_path)
    count_all(uri, tmp_path / "artifacts")


def test_a_server_of_two_workers_on_postgresql(tmp_path):
    with postgres(tmp_path / "database") as uri, mlflow_server(tmp_path / "server", uri, workers=2) as server:
        (tmp_path / "runs").mkdir()
        write_all(server.url, tmp_path / "runs")
        count_all(uri, tmp_path / "server" / "artifacts")
