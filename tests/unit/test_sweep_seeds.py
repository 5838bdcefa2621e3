import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft.sweeps.seeds import Child, is_final, statistics, varying, write_csv


def child(metrics=None, status="FINISHED", **overrides):
    metrics = {"test/spearman": 0.5} if metrics is None else metrics
    return Child({key: str(value) for key, value in overrides.items()}, status, metrics)


def test_mean_and_deviation_of_three_seeds():
    values = [0.61, 0.64, 0.70]
    (found,) = statistics([child({"test/spearman": v}, seed=i, task="gb1") for i, v in enumerate(values)])
    assert (found.group, found.metric, found.n) == ((), "test/spearman", 3)
    assert found.mean == pytest.approx(0.65)
    assert found.sd == pytest.approx(math.sqrt((0.04**2 + 0.01**2 + 0.05**2) / 2))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(-1, 1)), min_size=1, max_size=12))
def test_each_group_is_its_own_runs(rows):
    children = [child({"test/mcc": value}, seed=i, model=a, tuning=b) for i, (a, b, value) in enumerate(rows)]
    keys = varying(children)
    found = statistics(children)
    groups = {tuple({"model": a, "tuning": b}[key] for key in keys) for a, b, _ in rows}
    assert {s.group for s in found} == groups and len(found) == len(groups)
    for s in found:
        mine = [v for a, b, v in rows if tuple({"model": a, "tuning": b}[key] for key in keys) == s.group]
        assert s.n == len(mine)
        assert s.mean == pytest.approx(np.mean(mine), abs=1e-12)
        assert s.sd is None if s.n == 1 else s.sd == pytest.approx(np.std(mine, ddof=1), abs=1e-12)


def test_one_seed_has_no_deviation():
    (found,) = statistics([child(seed=0)])
    assert (found.mean, found.sd, found.n) == (0.5, None, 1)


def test_only_finished_runs_count_but_all_tell_what_varies():
    children = [child(seed=0, model="a"), child(seed=1, model="a"), child(seed=0, model="b", status="FAILED")]
    assert varying(children) == ("model",)
    (found,) = statistics(children)
    assert (found.group, found.n) == (("a",), 2)


def test_a_metric_that_some_runs_lack_has_its_own_n():
    children = [child({"test/mcc": 0.1, "test/f1_macro": 0.2}, seed=0), child({"test/f1_macro": 0.4}, seed=1)]
    found = {s.metric: s for s in statistics(children)}
    assert (found["test/mcc"].n, found["test/mcc"].sd) == (1, None)
    assert (found["test/f1_macro"].n, found["test/f1_macro"].mean) == (2, pytest.approx(0.3))


def test_a_key_that_some_jobs_lack_varies():
    assert varying([child(seed=0), child(seed=0, model="a")]) == ("model",)


def test_nothing_finished_and_nothing_at_all():
    assert statistics([child(seed=0, status="KILLED")]) == statistics([]) == []
    assert varying([]) == ()


@pytest.mark.parametrize(
    ("metric", "final"),
    [
        ("test/spearman", True),
        ("test_cb513/accuracy", True),
        ("cost/step_time_ms_p50", True),
        ("cost/test/wall_time_s", True),
        ("test/spearman_ci_low", False),
        ("test/accuracy_ceiling", False),
        ("test/records_bright", False),
        ("valid/spearman", False),
        ("train/loss", False),
        ("data/test", False),
        ("baseline/mae", False),
        ("seeds", False),
    ],
)
def test_final_metrics(metric, final):
    assert is_final(metric) == final


def test_the_table_is_read_back(tmp_path):
    children = [child({"test/mcc": v}, seed=i, model=m) for m in ("a,b", "c") for i, v in enumerate((0.1, 0.3))]
    write_csv(tmp_path / "sweep.csv", varying(children), statistics([*children, child({"test/mcc": 1.0}, model="d")]))
    with (tmp_path / "sweep.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [list(row) for row in rows] == [["model", "metric", "mean", "sd", "n"]] * 3
    assert [row["model"] for row in rows] == ["a,b", "c", "d"]
    assert float(rows[0]["sd"]) == pytest.approx(math.sqrt(0.02))
    assert (rows[2]["sd"], rows[2]["n"]) == ("", "1")
