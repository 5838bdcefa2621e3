"""Language models scored as they are: the command's numbers are those of a slow loop, and mistakes are told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from plmft.models.tokenizer import ESM
from tests.conftest import random_sequence
from tests.e2e import checkpoints
from tests.e2e.command import assert_nothing_left, run_folder, statuses, stored_runs
from tests.unit.test_zero_shot import mutants_of, published, slow_row

RANDOM = ("model=esm2_tiny", "tuning=none")
VARIANTS, FASTA = "task=mutation_effects", "task=perplexity"


@pytest.fixture
def model(tmp_path: Path):
    """A small ESM-2 with a token head, as transformers' own network, and the overrides that choose it."""
    theirs, spec = published("esm2", tmp_path / "lm")
    return theirs, [*checkpoints.overrides(spec), f"model.path={tmp_path / 'lm'}", "hardware.precision=fp32"]


def write_scan(folder: Path, wild_type: str, mutants: list[str], rng: np.random.Generator, offset: int) -> list[str]:
    """A scan with positions counted from offset + 1; returns the overrides that choose it."""
    lines = ["variant,fitness"]
    for mutant in mutants:
        pairs = enumerate(zip(wild_type, mutant, strict=True), offset + 1)
        lines.append(":".join(f"{a}{p}{b}" for p, (a, b) in pairs if a != b) + f",{rng.normal():.4f}")
    (folder / "scan.csv").write_text("\n".join(lines) + "\n")
    (folder / "wild.fasta").write_text(f">wild type\n{wild_type[:9]}\n{wild_type[9:]}\n")
    files = [f"task.file={folder / 'scan.csv'}", f"task.wild_type={folder / 'wild.fasta'}"]
    return [*files, "task.mutant=variant", "task.target=fitness"]


def likelihoods(theirs, sequence: str, masked: bool) -> np.ndarray:
    """(L, V): one pass of transformers for each position."""
    return np.array([slow_row(theirs, ESM, sequence, p, masked) for p in range(len(sequence))], np.float64)


def slow_score(theirs, method: str, wild_type: str, mutant: str) -> float:
    """One mutant by itself."""
    ids = [[ESM.vocabulary.index(c) for c in sequence] for sequence in (wild_type, mutant)]
    if method == "pseudo_log_likelihood":
        own = [
            likelihoods(theirs, s, True)[range(len(i)), i].sum() for s, i in zip((wild_type, mutant), ids, strict=True)
        ]
        return own[1] - own[0]
    rows = likelihoods(theirs, wild_type, method == "masked_marginals")
    return sum(row[b] - row[a] for row, a, b in zip(rows, *ids, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["masked_marginals", "wildtype_marginals", "pseudo_log_likelihood"])
def test_a_scan_is_scored_as_by_a_slow_loop(
    command: Callable, store: Path, tmp_path: Path, rng: np.random.Generator, model, method: str
) -> None:
    """Single and multiple mutants of a wild type that is counted from 41, one pass of transformers at a time."""
    theirs, chosen = model
    wild_type = random_sequence(rng, 24)
    mutants = sorted({m for m in mutants_of(wild_type, rng, 14) if m != wild_type})
    scan = write_scan(tmp_path, wild_type, mutants, rng, offset=40)
    out = command(VARIANTS, "tuning=none", *chosen, *scan, f"task.scores.method={method}").succeeded()
    assert "scan.csv: mutant position 41 is the first residue of the wild type" in out
    table = pd.read_parquet(run_folder(store) / "predictions.parquet")
    assert list(table.columns) == ["id", "sequence", "measured", "predicted"]
    assert sorted(table.sequence) == mutants and any(":" in name for name in table.id)
    wanted = [slow_score(theirs, method, wild_type, mutant) for mutant in table.sequence]
    np.testing.assert_allclose(table.predicted, wanted, rtol=1e-5, atol=2e-5)
    summary = json.loads((run_folder(store) / "summary.json").read_text())
    assert summary["metrics"]["test/spearman"] == pytest.approx(spearmanr(wanted, table.measured).statistic)
    assert statuses(store) == ["FINISHED"] and not (run_folder(store) / "model").exists()
    (run,) = stored_runs(store)
    assert run.data.metrics["test/spearman"] == pytest.approx(summary["metrics"]["test/spearman"])
    assert run.data.metrics["cost/test/wall_time_s"] > 0 and "cost/wall_time_s" not in run.data.metrics


@pytest.mark.slow
def test_a_pseudo_perplexity_is_that_of_a_slow_loop(
    command: Callable, store: Path, tmp_path: Path, rng: np.random.Generator, model
) -> None:
    theirs, chosen = model
    sequences = [random_sequence(rng, n) for n in (13, 4, 20)]
    file = tmp_path / "some.fasta"
    file.write_text("".join(f">p{i}\n{s}\n" for i, s in enumerate(sequences)))
    command(FASTA, "tuning=none", *chosen, f"task.file={file}", "task.head.method=pseudo").succeeded()
    own = [likelihoods(theirs, s, True)[range(len(s)), ESM.encode(s)[1:-1]] for s in sequences]
    metrics = json.loads((run_folder(store) / "summary.json").read_text())["metrics"]
    assert metrics["test/perplexity"] == pytest.approx(np.exp(-np.concatenate(own).mean()), rel=1e-5)
    assert metrics["test/perplexity_per_protein"] == pytest.approx(np.mean([np.exp(-o.mean()) for o in own]), rel=1e-5)
    table = pd.read_parquet(run_folder(store) / "predictions.parquet").set_index("id")
    np.testing.assert_allclose(table.predicted["1:p1"], own[1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_masked_perplexity_is_the_same_again(
    command: Callable, store: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """And of other masks with another seed; limit.test takes fewer sequences."""
    file = tmp_path / "some.fasta"
    sequences = [random_sequence(rng, 30 + n) for n in range(9)]
    file.write_text("".join(f">p{i}\n{s}\n" for i, s in enumerate(sequences)))

    def masked(*overrides: str) -> dict[str, np.ndarray]:
        command(*RANDOM, FASTA, f"task.file={file}", *overrides).succeeded()
        table = pd.read_parquet(run_folder(store) / "predictions.parquet")
        return {i: ~np.isnan(p) for i, p in zip(table.id, table.predicted, strict=True)}

    first, again, other, few = masked(), masked(), masked("seed=1"), masked("limit.test=4")
    assert all((first[i] == again[i]).all() for i in first)
    assert any((first[i] != other[i]).any() for i in first)
    assert {i: m.sum() for i, m in first.items()} == {f"{i}:p{i}": round(0.15 * (30 + i)) for i in range(9)}
    assert len(few) == 4


@pytest.mark.slow
def test_a_protein_of_titins_length(command: Callable, store: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """Refused; read in the windows around its mutations where that is asked for."""
    wild_type = random_sequence(rng, 34_350)
    mutants = ["".join("W" if i in at else c for i, c in enumerate(wild_type)) for at in ({3}, {17_000, 20}, {34_349})]
    scan = write_scan(tmp_path, wild_type, mutants, rng, offset=0)
    told = command(*RANDOM, VARIANTS, *scan).refused(
        "has 34350 residues, but esm2_tiny takes 1022", "length_policy=window"
    )
    assert "scan.csv, line " in told and not list(store.glob("work/*"))
    command(*RANDOM, VARIANTS, *scan, "data.length_policy=crop").refused("it would cut off mutated positions")
    out = command(*RANDOM, VARIANTS, *scan, "data.length_policy=window").succeeded()
    assert "Read in windows of 1022 residues: test 3" in out
    assert np.isfinite(pd.read_parquet(run_folder(store) / "predictions.parquet").predicted).all()


WILD = ">w\nMKTAYIAKQR\n"


@pytest.mark.parametrize(
    ("scan", "wild", "words"),
    [
        ("mutant,2500\nM1A,1\nK3A,2\nQ9A,3\n", WILD, ["scan.csv, line 3: K3A: position 3 is T, not K"]),
        ("mutant,2500\nM1A,1\nR11A,2\n", WILD, ["positions 1 to 11 don't fit a wild type of 10 residues"]),
        ("mutant,2500\nM1A,1\n", WILD + ">v\nMKV\n", ["wild.fasta: 2 sequences, w and v among them"]),
        ("mutant,2500\nM1A,1\nM1A,2\n", WILD, ["line 3: id 'M1A' was used before, in ", "line 2. Ids must be unique"]),
        ("mutant,2500\nM1A:M1G,1\n", WILD, ["line 2: column 'mutant': 'M1A:M1G' mutates a position twice"]),
        ("mutant,2500\nM1,1\n", WILD, ["line 2: column 'mutant': 'M1' is no mutant", "Write A24G"]),
        ("mutant,39\nM1A,1\n", WILD, ["line 2: no column '2500'; the columns are mutant, 39. Set task.target"]),
        ("mutant,2500\nM1A,n.d.\n", WILD, ["line 2: ", "'n.d.' is not a number"]),
        ("mutant,2500\nM1A,inf\n", WILD, ["line 2: the target of 'M1A' is inf. It must be finite"]),
        ("mutant,2500\n", WILD, ["scan.csv: no mutants below the header"]),
        ("", WILD, ["scan.csv: the file is empty"]),
        ("mutant,2500\nM1A,1\n", "MKTAYIAKQR\n", ["wild.fasta, line 1: 'MKTAYIAKQR' stands before the first header"]),
    ],
)
def test_a_scan_with_a_fault(
    command: Callable, runs: Path, tmp_path: Path, scan: str, wild: str, words: list[str]
) -> None:
    (tmp_path / "scan.csv").write_text(scan)
    (tmp_path / "wild.fasta").write_text(wild)
    files = (f"task.file={tmp_path / 'scan.csv'}", f"task.wild_type={tmp_path / 'wild.fasta'}")
    command(*RANDOM, VARIANTS, *files).refused(*words)
    assert_nothing_left(runs)


def test_a_column_that_is_named_by_a_number(command: Callable, runs: Path, tmp_path: Path) -> None:
    """As the default one is: Hydra reads task.target=39 as a number."""
    (tmp_path / "scan.csv").write_text("mutant,2500\nM1A,1\n")
    (tmp_path / "wild.fasta").write_text(WILD)
    files = (f"task.file={tmp_path / 'scan.csv'}", f"task.wild_type={tmp_path / 'wild.fasta'}")
    command(*RANDOM, VARIANTS, *files, "task.target=39").refused("no column '39'; the columns are mutant, 2500")
    command(*RANDOM, VARIANTS, files[0]).refused("task.file and task.wild_type belong together")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["some.fasta: no entry"]),
        (">a\n>b\nMK\n", ["some.fasta, line 1: 'a' has no sequence below its header"]),
        (">a\nMK*T\n", ["some.fasta, line 1: '*' at position 3 of '0:a' is not an amino acid"]),
        (">a\nmkt\n", ["'m' at position 1 of '0:a' is not an amino acid", "upper case"]),
        (">a\nMKT\n>long\n" + "A" * 1023 + "\n", ["line 3: 1:long has 1023 residues, but esm2_tiny takes 1022"]),
    ],
)
def test_a_fasta_with_a_fault(command: Callable, runs: Path, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "some.fasta").write_text(text)
    command(*RANDOM, FASTA, f"task.file={tmp_path / 'some.fasta'}").refused(*words)
    assert_nothing_left(runs)


@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_a_checkpoint_without_a_token_head_is_told(command: Callable, runs: Path, tmp_path: Path, family: str) -> None:
    (tmp_path / "some.fasta").write_text(">a\nMKT\n")
    backbone = checkpoints.folder(tmp_path / "backbone", family)
    told = command(FASTA, "tuning=none", *backbone, f"task.file={tmp_path / 'some.fasta'}").refused(
        "backbone has no weights"
    )
    assert "token head of" in told and "bias, dense.bias, dense.weight, layer_norm.bias" in told
    assert_nothing_left(runs)
