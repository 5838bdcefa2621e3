"""`python -m plmft.predict` in this process: every kind of model, every form of output, and what is refused."""

import csv
import gzip
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from plmft import InputError
from plmft.inference import computing, job
from plmft.inference.answers import Answers
from plmft.inference.chunks import Counts
from plmft.inference.described import Described, device_for
from plmft.inference.job import run_job
from plmft.inference.opening import Position
from plmft.inference.options import Options, Request, read_request
from plmft.inference.parts import Shard
from plmft.inference.sequences import Columns, Given, read_sequences
from plmft.inference.showing import Watched
from plmft.metrics.confidence import fit_confidence
from plmft.models import kernels
from plmft.models.build import build_predictor
from plmft.models.head_spec import PairHead, ResidueHead, SequenceHead
from plmft.models.tuned import Description, load, save
from plmft.models.tuning import Frozen, Full
from plmft.predict import predict
from plmft.tracking.options import Tracking
from plmft.training.hardware import Hardware
from tests.conftest import random_sequence
from tests.unit.tuned_models import LORA, RANDOM, saved, spec

CLASSES = ("H", "E", "C")
HEADS = {"contacts": PairHead(4, 8, 0.0), "residue_classification": ResidueHead(0.0)}
PAIR = "pair_classification"


def confidence_of(kind, rng):
    probabilities = rng.dirichlet([1, 1, 1], 40).astype(np.float32)
    if kind == "sequence_regression":
        return fit_confidence(kind, rng.normal(size=40), rng.normal(size=40))
    if kind == "sequence_multilabel":
        return fit_confidence(kind, probabilities, rng.integers(0, 2, (40, 3)))
    if kind == "residue_classification":
        return fit_confidence(kind, [probabilities] * 20, [rng.integers(0, 3, 40)] * 20)
    return fit_confidence(kind, probabilities, rng.integers(0, 3, 40))


def tuned(folder, kind="sequence_regression", *, tuning=None, sure=True, windows=False):
    torch.manual_seed(0)
    rng, tuning = np.random.default_rng(0), tuning or Full()
    head = HEADS.get(kind, SequenceHead("mean", False, 8, 0.0))
    classes = () if kind in ("sequence_regression", "contacts") else CLASSES
    model = build_predictor(spec(), RANDOM, tuning=tuning, head=head, kind=kind, outputs=len(classes) or 1)
    description = Description(spec(), tuning, head, "demo", kind, classes, "unit", windows=windows)
    save(model.eval(), description, RANDOM, folder, confidence_of(kind, rng) if sure else None)
    return folder


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    return tuned(tmp_path_factory.mktemp("models") / "regression")


@pytest.fixture
def proteins(tmp_path, rng):
    """12 proteins; one is not one, and one is longer than the model's context of 60."""
    lengths = [*rng.integers(10, 58, 10).tolist(), 75]
    entries = [f">p{i}\n{random_sequence(rng, int(n))}\n" for i, n in enumerate(lengths)]
    (tmp_path / "proteins.fa").write_text("".join([*entries[:4], ">wrong\nMK*\n", *entries[4:]]))
    return tmp_path / "proteins.fa"


def sequences_of(file):
    entries = [entry.split("\n", 1) for entry in file.read_text().split(">")[1:]]
    return {name: text.replace("\n", "") for name, text in entries}


def run(model, file, output, **options):
    """Without the command line, whose composition takes longer than all else here."""
    columns = options.pop("columns", Columns())
    hardware = Hardware("cpu", "auto", options.pop("tokens_per_batch", 4096), None)
    return run_job(
        Request(str(model), str(file), str(output), Options(columns, **options), hardware, Tracking()), model
    )


def test_numbers_with_intervals_in_the_inputs_order(regression, proteins, tmp_path, capsys):
    words = (f"model={regression}", f"input={proteins}", f"output={tmp_path}/p.parquet", "chunk=4", "hardware=cpu")
    predict(words)
    rows, given = pd.read_parquet(tmp_path / "p.parquet"), sequences_of(proteins)
    assert list(rows.columns) == ["number", "id", "prediction", "low", "high"]
    assert rows["number"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert rows["id"].tolist() == [f"p{i}" for i in range(10)]
    wanted = load(regression).intervals([given[name] for name in rows["id"]])
    np.testing.assert_allclose(rows[["prediction", "low", "high"]], wanted, rtol=0, atol=1e-5)
    assert rows["prediction"].nunique() > 5  # a model that tells sequences apart: the order is tested
    listed = pd.read_csv(tmp_path / "p.parquet.rejected.csv")
    assert listed["id"].tolist() == ["wrong", "p10"]
    assert listed["place"].tolist() == [f"{proteins}, line 9", f"{proteins}, line 23"]
    assert "75 residues; the model takes 60" in listed["reason"][1]
    said = capsys.readouterr().out
    assert "10 sequences, 2 rejected" in said and "random weights" in said
    assert not (tmp_path / "p.parquet.parts").exists()


def test_a_kernel_that_could_be_built_is_told(regression, proteins, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "notes", lambda device: (f"a kernel for {device}",))
    first = run(regression, proteins, tmp_path / "p.csv")
    assert "a kernel for cpu" in first.notes
    again = run(regression, proteins, tmp_path / "p.csv")
    assert "a kernel for cpu" not in again.notes  # nothing was left to do


def test_what_the_run_measured_and_who_it_is(proteins, tmp_path):
    place = tuned(tmp_path / "run" / "model").parent
    run(place / "model", proteins, tmp_path / "unknown.csv")
    about = json.loads((tmp_path / "unknown.csv.about.json").read_text())
    assert about["task"] == "demo" and not {"run_id", "run_name"} & set(about)
    summary = {"run_id": "396771c6", "metrics": {"test/conformal_coverage_90": 0.565}}
    (place / "summary.json").write_text(json.dumps(summary))
    (place / "tracking").mkdir()
    (place / "tracking" / "journal.jsonl").write_text('{"call": "start", "name": "tiny-s0"}\n{"call": "end"}\n')
    notes = run(place / "model", proteins, tmp_path / "known.csv").notes
    assert any("low and high held 56.5 %" in note and "90 %" in note for note in notes)
    about = json.loads((tmp_path / "known.csv.about.json").read_text())
    assert (about["run_id"], about["run_name"], about["task"]) == ("396771c6", "tiny-s0", "demo")
    assert "56.5" in " ".join(run(place / "model", proteins, tmp_path / "known.csv").notes)  # found done
    (place / "model" / "confidence.json").unlink()
    assert "56.5" not in " ".join(Described(place / "model", {"model": {}, "task": {"kind": "contacts"}}).notes)


@pytest.mark.parametrize("kind", ["sequence_classification", "sequence_multilabel", "residue_classification"])
@pytest.mark.parametrize("sure", [True, False])
def test_classes(kind, sure, proteins, tmp_path):
    model = tuned(tmp_path / "m", kind, sure=sure)
    run(model, proteins, tmp_path / "p.csv", chunk=5)
    rows = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    given = [sequences_of(proteins)[name] for name in rows["id"]]
    one = load(model)
    assert rows["prediction"].tolist() == one.predict(given)
    assert list(rows.columns[3:]) == (["probability"] + ["likely"] * (kind == "sequence_classification")) * sure
    if not sure:
        return
    calibrated = one.calibrated(given)
    if kind == "sequence_multilabel":
        told = [[f"{p:.4f}" for p in c[c >= 0.5]] for c in calibrated]
        assert [r.split(";") if r else [] for r in rows["probability"].astype(str)] == told
    else:
        np.testing.assert_allclose(rows["probability"].astype(float), [c.max(-1).mean() for c in calibrated], atol=1e-6)


def test_residues_as_fasta(proteins, tmp_path):
    model = tuned(tmp_path / "m", "residue_classification")
    run(model, proteins, tmp_path / "p.fasta.gz")
    found = gzip.decompress((tmp_path / "p.fasta.gz").read_bytes()).decode()
    (tmp_path / "p.fa").write_text(found)
    given = sequences_of(proteins)
    found = sequences_of(tmp_path / "p.fa")
    assert found == dict(zip(found, load(model).predict([given[name] for name in found]), strict=True))


def test_contacts_in_every_form(proteins, tmp_path):
    model = tuned(tmp_path / "m", "contacts")
    for name in ("c.csv", "c.npz", "c.parquet"):
        run(model, proteins, tmp_path / name, chunk=4)
    rows = pd.read_csv(tmp_path / "c.csv", keep_default_na=False)
    given = [sequences_of(proteins)[name] for name in rows["id"]]
    assert rows["prediction"].tolist() == load(model).predict(given)
    with np.load(tmp_path / "c.npz") as arrays:
        assert arrays["ids"].tolist() == rows["id"].tolist()
        begin, end = arrays["offsets"][3:5]
        told = zip(*(arrays[name][begin:end] for name in ("first", "second", "probability")), strict=True)
        assert ";".join(f"{i}-{j}:{p:.3f}" for i, j, p in told) == rows["prediction"][3]
    table = pq.read_table(tmp_path / "c.parquet").to_pylist()[3]
    assert len(table["first"]) == len(given[3]) and table["first"][0] < table["second"][0]


def test_contacts_are_not_computed_in_windows(proteins, tmp_path):
    model = tuned(tmp_path / "m", "contacts")
    with pytest.raises(InputError, match=r"length_policy=window: contacts reach across windows. Set refuse or crop"):
        run(model, proteins, tmp_path / "c.csv", length_policy="window")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "proteins.fa"]
    run(model, proteins, tmp_path / "c.csv")
    reason = pd.read_csv(tmp_path / "c.csv.rejected.csv")["reason"][1]
    assert reason == "75 residues; the model takes 60 (length_policy=crop takes more)"


def test_maps_that_are_not_drawn_are_told(proteins, tmp_path):
    model = tuned(tmp_path / "m", "contacts")
    for output in ("c.csv", "folder"):
        assert not any("plots" in note for note in run(model, proteins, tmp_path / output).notes)
        (told,) = [note for note in run(model, proteins, tmp_path / output, plots=2).notes if "plots" in note]
        assert told.startswith("plots=2: of the 10 sequences that were found done no map was drawn now.")


@pytest.mark.slow  # Matplotlib
def test_contact_maps_as_pictures(proteins, tmp_path):
    run(tuned(tmp_path / "m", "contacts"), proteins, tmp_path / "c.csv", chunk=4, plots=2)
    assert sorted(p.name for p in (tmp_path / "c.csv.plots").iterdir()) == ["00000-p0.png", "00001-p1.png"]


def test_pairs_come_from_a_table(tmp_path, rng):
    model = tuned(tmp_path / "m", PAIR)
    rows = [(f"x{i}", random_sequence(rng, 20), random_sequence(rng, 30 if i else 90)) for i in range(5)]
    pd.DataFrame(rows, columns=["id", "a", "b"]).to_parquet(tmp_path / "x.parquet")
    run(model, tmp_path / "x.parquet", tmp_path / "p.csv", columns=Columns("id", "a", "b"))
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["id"].tolist() == ["x1", "x2", "x3", "x4"]
    assert found["prediction"].tolist() == load(model).predict([r[1] for r in rows[1:]], [r[2] for r in rows[1:]])
    (tmp_path / "x.fa").write_text(">a\nMK\n")
    with pytest.raises(InputError, match="the columns id, sequence and partner"):
        run(model, tmp_path / "x.fa", tmp_path / "q.csv")
    assert not list(tmp_path.glob("q.csv*"))


@pytest.mark.parametrize("policy", ["crop", "window"])
def test_long_sequences(regression, proteins, tmp_path, policy):
    run(regression, proteins, tmp_path / "p.csv", length_policy=policy)
    found = pd.read_csv(tmp_path / "p.csv").set_index("id")["prediction"]
    text = sequences_of(proteins)["p10"]
    if policy == "crop":
        wanted = load(regression).predict([text[:60]])[0]
    else:
        wanted = load(tuned(tmp_path / "windows", windows=True)).predict([text])[0]
    assert found["p10"] == pytest.approx(wanted, abs=1e-5)


def test_adapters_are_merged_unless_told_otherwise(proteins, tmp_path):
    model = tuned(tmp_path / "m", tuning=LORA)
    for name, merge in (("merged.csv", True), ("exact.csv", False)):
        run(model, proteins, tmp_path / name, merge=merge)
    exact, merged = (pd.read_csv(tmp_path / f"{n}.csv") for n in ("exact", "merged"))
    given = [sequences_of(proteins)[name] for name in exact["id"]]
    np.testing.assert_allclose(exact["prediction"], load(model).predict(given), rtol=0, atol=1e-6)
    np.testing.assert_allclose(merged["prediction"], exact["prediction"], atol=1e-4)


@pytest.mark.parametrize("output", ["p.parquet", "p.csv.gz"])
def test_an_interrupted_job_goes_on_and_gives_the_same_bytes(regression, proteins, tmp_path, monkeypatch, output):
    (tmp_path / "whole").mkdir()
    run(regression, proteins, tmp_path / "whole" / output, chunk=3)
    wanted = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    (tmp_path / "ended").mkdir()
    write, calls = computing.Computer.write, []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(computing.Computer, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(regression, proteins, tmp_path / "ended" / output, chunk=3)
    other = tuned(tmp_path / "other", sure=False)
    with pytest.raises(InputError, match=r"made otherwise.*model: "):
        run(other, proteins, tmp_path / "ended" / output, chunk=3)
    run(regression, proteins, tmp_path / "ended" / output, chunk=3)
    assert {file.name: file.read_bytes() for file in (tmp_path / "ended").iterdir()} == wanted


def test_what_is_complete_stays_and_is_not_replaced(regression, proteins, tmp_path, monkeypatch):
    output = tmp_path / "p.csv"
    run(regression, proteins, output)
    before = output.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(computing.Computer, "write", lambda *given: pytest.fail("computed again"))
        assert run(regression, proteins, output).counts == Counts(0, 10, 2)
    for words, message in (
        ({"length_policy": "crop"}, "made otherwise.*length_policy: refuse there, crop now"),
        ({}, "another input"),
    ):
        if not words:
            proteins.write_text(proteins.read_text().replace(">p3", ">q3"))
        with pytest.raises(InputError, match=message):
            run(regression, proteins, output, **words)
    (tmp_path / "p.csv.about.json").unlink()
    with pytest.raises(InputError, match="not known to be of this command"):
        run(regression, proteins, output)
    assert output.read_bytes() == before


def test_a_job_killed_while_its_file_was_put_together_ends_well(regression, proteins, tmp_path, monkeypatch):
    output = tmp_path / "p.csv"
    with monkeypatch.context() as patch:
        patch.setattr("plmft.inference.job.assemble", lambda parts, draft, suffix: draft.write_text("x") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(regression, proteins, output)
    assert not output.exists() and not list(tmp_path.glob(".*"))
    run(regression, proteins, output)
    assert len(output.read_text().splitlines()) == 11


def test_the_same_command_at_once_is_refused_until_the_file_is_there(regression, proteins, tmp_path, monkeypatch):
    put_together, output = job.assemble, tmp_path / "p.csv"

    def meanwhile(*given):
        with pytest.raises(InputError, match=r"p\.csv\.parts: another process is writing shard 1/1 there"):
            run(regression, proteins, output)
        put_together(*given)

    monkeypatch.setattr(job, "assemble", meanwhile)
    assert run(regression, proteins, output).counts == Counts(10, 0, 2)
    assert run(regression, proteins, output).counts == Counts(0, 10, 2)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".", "p.csv"))) == [
        "p.csv", "p.csv.about.json", "p.csv.rejected.csv",
    ]  # fmt: skip


def test_shards_share_a_folder_that_pandas_reads(regression, proteins, tmp_path):
    run(regression, proteins, tmp_path / "whole.parquet")
    for shard in ("2/2", "1/2"):
        run(regression, proteins, tmp_path / "shared", shard=shard, chunk=3)
    shared = pd.read_parquet(tmp_path / "shared").sort_values("number", ignore_index=True)
    whole = pd.read_parquet(tmp_path / "whole.parquet")
    assert shared["id"].tolist() == whole["id"].tolist()
    np.testing.assert_allclose(shared["prediction"], whole["prediction"], atol=1e-5)


def test_standard_input(regression, proteins, tmp_path, monkeypatch):
    run(regression, proteins, tmp_path / "file.csv")
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(proteins.read_bytes()))))
    )
    run(regression, "-", tmp_path / "pipe.csv")
    assert (tmp_path / "pipe.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()


def test_nothing_that_can_be_predicted(regression, tmp_path):
    (tmp_path / "x.fa").write_text(">a\nmk\n")
    with pytest.raises(InputError, match=r"none of 1 sequences can be taken; .*rejected.csv tells why"):
        run(regression, tmp_path / "x.fa", tmp_path / "p.csv")
    assert list(csv.reader((tmp_path / "p.csv.rejected.csv").open()))[1][:2] == ["0", "a"]
    (tmp_path / "x.fa").write_text(">a\nMK\n")
    run(regression, tmp_path / "x.fa", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv.rejected.csv").exists()


def test_nothing_that_can_be_predicted_into_a_folder(regression, tmp_path):
    (tmp_path / "x.fa").write_text(">a\nmk\n")
    with pytest.raises(InputError, match=r"none of 1 sequences can be taken; .*rejected.csv tells why"):
        run(regression, tmp_path / "x.fa", tmp_path / "p")
    assert not (tmp_path / "p").exists() and (tmp_path / "p.rejected.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "x.cvs"}, "no known kind of file"),
        ({"output": "."}, "there is something else. Name another output"),
        ({"output": "/"}, "output=/: there is something else. Name another output"),
        ({"output": "x.csv", "shard": "1/2"}, "shards share a folder"),
        ({"shard": "3/2"}, "shard=3/2: shards are numbered from 1/2 to 2/2"),
        ({"output": "x.fasta"}, "for models of the kind residue_classification"),
        ({"output": "x.npz"}, "for models of the kind contacts"),
        ({"plots": 3}, "no contact maps"),
        ({"columns": Columns(partner="b")}, "takes no pairs"),
        ({"file": "none.fa"}, "there is no such file"),
    ],
)
def test_mistakes_leave_nothing(regression, proteins, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(regression, **{"file": proteins, "output": "p.csv"} | options)
    assert [p.name for p in tmp_path.iterdir()] == ["proteins.fa"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["input="], "input is not set"),
        (["chonk=3"], "no such option. Did you mean 'chunk'"),
        (["chunk"], "form key=value"),
        (["batch_size=3"], "no such option"),
        (["run=1a2b"], "run=1a2b: there is no such option. Here model= names a run .*: give model=1a2b"),
        (["chunk=0", "length_policy=cut"], r"chunk=0: must be greater than 0.(?s:.*)\nlength_policy=cut: must be"),
        (["columns.ids=x"], r"columns.ids: .* no key 'ids'.* mean 'id'"),
        (["hardware=ddp"], "shard=1/N"),
    ],
)
def test_mistakes_on_the_command_line(words, message):
    with pytest.raises(InputError, match=message):
        read_request(["model=m", "input=i", "output=o", *words])


def test_paths_are_taken_as_they_stand():
    request = read_request(["model=a b", "input=x=1,(2).fa", "output=${y}.csv", "columns.id=null"])
    assert (request.model, request.input, request.output) == ("a b", "x=1,(2).fa", "${y}.csv")
    assert request.options.columns.id is None


@pytest.mark.parametrize(
    ("run_s", "asked", "wanted"),
    [
        ("fp32", "auto", "fp32"),
        ("bf16", "auto", "fp32"),  # this CPU has none
        ("bf16", "bf16", "bf16"),
        ("bf16_weights", "auto", "fp32"),
        ("bf16_weights", "bf16_weights", "bf16_weights"),
        ("bf16_weights", "fp32", "fp32"),
    ],
)
def test_the_precision_is_the_runs_where_the_device_has_it(tmp_path, monkeypatch, run_s, asked, wanted):
    monkeypatch.setattr("plmft.training.hardware._cpu_has_bf16", lambda: False)
    model, hardware = Described(tmp_path, {"precision": run_s}), Hardware("cpu", asked, 4096, None)
    device, notes = device_for(hardware, model)
    assert device.precision == wanted
    assert bool(notes) == (asked == "auto" and run_s != "fp32" and wanted == "fp32")


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("tuning", [Frozen(), LORA], ids=lambda t: t.name)
def test_a_run_that_held_weights_in_bfloat16_on_a_cpu_without(proteins, tmp_path, monkeypatch, rng, tuning, merge):
    monkeypatch.setattr("plmft.training.hardware._cpu_has_bf16", lambda: False)
    saved(tmp_path / "model", "esm2", tuning, "sequence_regression", rng, precision="bf16_weights")
    assert any(
        "Computed in fp32" in n for n in run(tmp_path / "model", proteins, tmp_path / "p.csv", merge=merge).notes
    )
    rows, given = pd.read_csv(tmp_path / "p.csv"), sequences_of(proteins)
    model = load(tmp_path / "model", merge=merge)
    model.predictor.float()
    model = replace(model, description=replace(model.description, precision="fp32"))
    np.testing.assert_allclose(rows["prediction"], model.predict([given[i] for i in rows["id"]]), rtol=1e-5)


@pytest.mark.parametrize("name", ["head.safetensors", "backbone/model.safetensors"])
def test_a_model_without_its_weights_leaves_nothing_and_can_be_mended(proteins, tmp_path, name):
    folder = tuned(tmp_path / "model")
    whole = (folder / name).read_bytes()
    for content, told in (
        (None, f"{name} is missing|does not fit|no model.safetensors"),
        (whole[:-9], f"{name} can't be read"),
    ):
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=told):
            run(folder, proteins, tmp_path / "p.csv")
        assert not list(tmp_path.glob("p.*"))
    (folder / name).write_bytes(whole)
    assert run(folder, proteins, tmp_path / "p.csv").counts.done == 10


def test_the_folder_that_one_is_in(regression, proteins, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(regression, proteins, ".")
    assert len(pd.read_parquet(tmp_path / "here")) == 10
    assert (tmp_path / "here.rejected.csv").is_file()


def test_a_head_that_looks_at_positions_refuses_what_is_shorter(tmp_path):
    refuse = Described(tmp_path, {"head": {"positions": [3, 39]}, "model": {}, "task": {}}).refusal("auto")
    assert refuse("M" * 38) == "38 residues; the model's head looks at residue 39"
    assert refuse("M" * 39) is None


def test_how_much_is_to_come_is_estimated_from_the_place_in_the_file(proteins):
    position = Position()
    watched = Watched(position)
    items = watched.reading(read_sequences(str(proteins), position=position), Shard(1, 2))
    given = [g for g in items if isinstance(g, Given) and g.number % 2 == 0]
    assert watched.total == watched.read == sum(len(g.sequence) for g in given)
    assert watched.residues_per_s is None
    watched.begin()
    watched.predicted(30)
    watched.skipped(5)
    assert (watched.computed, watched.done) == (30, 35) and watched.residues_per_s > 0
    assert Watched(Position()).total is None


def test_a_model_without_confidence_has_no_interval_columns(tmp_path):
    one = load(tuned(tmp_path / "m", sure=False))
    assert Answers(one.description, one.confidence).schema.names == ["number", "id", "prediction"]
