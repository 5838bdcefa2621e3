"""Exports predict what plmft predicts: transformers' folder, PEFT's adapter, torch.export's program."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.export import export
from plmft.exporting.card import write_card
from plmft.exporting.hf import STANDALONE, export_adapter, export_huggingface
from plmft.exporting.torch_export import export_torch
from plmft.models.head_spec import SequenceHead
from plmft.models.tuned import load
from plmft.models.tuning import DoRA, Frozen
from tests.unit.exported_models import CLASSES, LORA, PARTNERS, SEQUENCES, expected, saved_model
from tests.unit.tuned_models import saved

OTHER_HEADS = [
    SequenceHead("max", False, 8, 0.0),
    SequenceHead("attention", False, 8, 0.0),
    SequenceHead("cls", True, 8, 0.0),
    SequenceHead("concat", True, 8, 0.0, (2, 9)),
    SequenceHead("attention", True, 8, 0.0, (3, 1, 7)),
]


def standalone(folder: Path):
    """The model that predict.py of the folder loads."""
    return predict_py(folder).load(folder)


def predict_py(folder: Path):
    """predict.py of the folder, as a module."""
    spec = importlib.util.spec_from_file_location("exported_predict", folder / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(folder: Path, wanted: list[np.ndarray]):
    model = standalone(folder)
    pairs = PARTNERS if model.about["kind"] == "pair_classification" else None
    found = model.outputs(SEQUENCES, pairs)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    spread = np.ptp(np.concatenate([np.ravel(found) for found in wanted]))
    assert spread > 1e-3  # else nothing was told apart
    return model


@pytest.mark.parametrize("kind", CLASSES)
def test_huggingface_folder_predicts_the_same(tmp_path, kind):
    tuned = saved_model(tmp_path / "model", kind)
    export_huggingface(tuned, tmp_path / "out")
    model = assert_same(tmp_path / "out", expected(tuned))
    pairs = PARTNERS if kind == "pair_classification" else None
    wanted, found = tuned.predict(SEQUENCES, pairs), model.predict(SEQUENCES, pairs)
    assert found == (pytest.approx(wanted, rel=1e-5) if kind == "sequence_regression" else wanted)


@pytest.mark.parametrize(("family", "kind"), [("esm1b", "contacts"), ("bert", "residue_classification")])
def test_other_families(tmp_path, family, kind):
    tuned = saved_model(tmp_path / "model", kind, family)
    export_huggingface(tuned, tmp_path / "out")
    assert_same(tmp_path / "out", expected(tuned))


@pytest.mark.parametrize("head", OTHER_HEADS, ids=lambda head: f"{head.pooling}-{head.positions}")
def test_other_heads(tmp_path, head):
    tuned = saved_model(tmp_path / "model", "sequence_regression", head=head)
    export_huggingface(tuned, tmp_path / "out")
    assert_same(tmp_path / "out", expected(tuned))


@pytest.mark.parametrize("tuning", [LORA, DoRA(2, 4, 0.0, ("attention", "feedforward"))], ids=lambda t: t.name)
def test_adapter_predicts_the_same(tmp_path, tuning):
    tuned = saved_model(tmp_path / "model", "sequence_classification", tuning=tuning)
    export_adapter(load(tmp_path / "model"), tmp_path / "model", tmp_path / "out")
    assert_same(tmp_path / "out", expected(tuned))
    export_huggingface(tuned, tmp_path / "merged")
    assert_same(tmp_path / "merged", expected(tuned))


def test_tokenizer_of_the_folder_makes_the_same_ids(tmp_path):
    from transformers import AutoTokenizer

    for family, sequence in (("esm2", "MKTAYIAKQRBZUOX"), ("bert", "M K T A Y I A K Q R X")):
        tuned = saved_model(tmp_path / family / "model", "contacts", family)
        export_huggingface(tuned, tmp_path / family / "out")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / family / "out")
        wanted = tuned.description.spec.tokenizer.encode(sequence.replace(" ", "")).tolist()
        assert tokenizer(sequence)["input_ids"] == wanted


def test_bad_sequences_are_told_by_predict_py(tmp_path):
    tuned = saved_model(tmp_path / "model", "sequence_regression", head=OTHER_HEADS[3])
    export_huggingface(tuned, tmp_path / "out")
    model = standalone(tmp_path / "out")
    for sequence, told in (
        ("", "the sequence is empty"),
        ("A" * 61, "61 residues; the model takes 60"),
        ("MK T", "' ' at position 3 of the sequence is no amino acid"),
        ("MkT", "'k' at position 2 .* write sequences in upper case"),
        ("MKT", "looks at residue 9"),
    ):
        with pytest.raises(ValueError, match=f"Sequence 1: .*{told}"):
            model.predict(["MKTAYIAKQR", sequence])
    with pytest.raises(ValueError, match="two lists"):
        model.predict(["MKT"], ["MKT"])


def test_predict_py_names_bad_records_and_goes_on(tmp_path, capsys):
    tuned = saved_model(tmp_path / "model", "sequence_classification")
    export_huggingface(tuned, tmp_path / "out")
    fasta = tmp_path / "a.fasta"
    bad = ">stop\nMK*\n>lower\nmkt\n>\nMKT\n>none\n>one again\nMKT\n"
    fasta.write_text(f">one x\n{SEQUENCES[0][:5]}\n{SEQUENCES[0][5:]}\n{bad}>two\n{SEQUENCES[1]}\n")
    assert predict_py(tmp_path / "out").main([str(fasta)]) == 1
    found, told = capsys.readouterr()
    wanted = tuned.predict(SEQUENCES[:2])
    assert found == f"id\tprediction\none\t{wanted[0]}\ntwo\t{wanted[1]}\n"
    lines = told.splitlines()
    assert f"{fasta}, line 4: stop is left out: '*' at position 3" in lines[0]
    assert "line 6: lower is left out" in lines[1] and "upper case" in lines[1]
    assert [line.split(" is left out: ")[1] for line in lines[2:5]] == [
        "it has no id.",
        "the sequence is empty.",
        "the id stands before in the file; ids must be unique.",
    ]
    assert lines[5:] == ["predict.py: 5 of 7 records are left out."]
    fasta.write_text(f">one\n{SEQUENCES[0]}\n")
    assert predict_py(tmp_path / "out").main([str(fasta)]) == 0
    assert capsys.readouterr().err == ""


def test_predict_py_leaves_out_the_pair_of_a_bad_record(tmp_path, capsys):
    tuned = saved_model(tmp_path / "model", "pair_classification")
    export_huggingface(tuned, tmp_path / "out")
    fasta = tmp_path / "a.fasta"
    fasta.write_text(f">a\nMKT\n>b\nMK-T\n>a\nMKT\n>c\n{SEQUENCES[1]}\n")
    assert predict_py(tmp_path / "out").main([str(fasta)]) == 1
    found, told = capsys.readouterr()
    assert found == f"id\tprediction\na|c\t{tuned.predict(['MKT'], SEQUENCES[1:2])[0]}\n"
    assert "b is left out" in told and "2 of 4 records" in told
    fasta.write_text(">a\nMKT\n")
    assert predict_py(tmp_path / "out").main([str(fasta)]) == 2
    assert "neighbours are pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"id,sequence\na,MKT\n", "line 1: 'id,sequence' is no FASTA"),
        (b"\x1f\x8b\x08\xff\x00", "is no FASTA"),
    ],
)
def test_predict_py_refuses_what_is_no_fasta(tmp_path, capsys, content, told):
    shutil.copyfile(STANDALONE, tmp_path / "predict.py")
    if content is not None:
        (tmp_path / "given").write_bytes(content)
    assert predict_py(tmp_path).main([str(tmp_path / "given")]) == 2
    found = capsys.readouterr()
    assert told in found.err and found.err.count("\n") == 1 and not found.out


@pytest.mark.parametrize("kind", ["sequence_regression", "residue_classification"])
def test_transformers_finds_every_weight(tmp_path, kind):
    from transformers import AutoModel, AutoModelForTokenClassification

    tuned = saved_model(tmp_path / "model", kind, tuning=LORA)
    export_huggingface(tuned, tmp_path / "out")
    export_adapter(load(tmp_path / "model"), tmp_path / "model", tmp_path / "adapter")
    places = {tmp_path / "adapter" / "base": AutoModel, tmp_path / "out": AutoModel}
    if kind == "residue_classification":
        places[tmp_path / "out"] = AutoModelForTokenClassification
    for place, network in places.items():
        options = {"add_pooling_layer": False} if network is AutoModel else {}
        _, report = network.from_pretrained(place, output_loading_info=True, **options)
        assert not any(report.values()), (place, report)


@pytest.mark.slow  # 3 s each
@pytest.mark.parametrize("kind", ["sequence_regression", "pair_classification"])
def test_program_predicts_the_same_for_any_batch_and_length(tmp_path, kind):
    tuned = saved_model(tmp_path / "model", kind)
    export_torch(tuned, tmp_path / "model.pt2")
    files = {"plmft.json": ""}
    pairs = kind == "pair_classification"
    model = torch.export.load(tmp_path / "model.pt2", extra_files=files).module(check_guards=not pairs)
    about = json.loads(files["plmft.json"])
    for number, wanted in enumerate(expected(tuned)):  # one record a batch, each of another length
        rows = [SEQUENCES[number], PARTNERS[number]] if pairs else [SEQUENCES[number]]
        ids = [about["prefix"] + [about["letters"].get(x, about["unknown"]) for x in r] + about["suffix"] for r in rows]
        longest = max(map(len, ids)) + 3
        tokens = torch.tensor([row + [about["pad"]] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        np.testing.assert_allclose(model(tokens, mask)[0].numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert str(Path(__file__).parents[2]) not in (tmp_path / "model.pt2").read_bytes().decode("latin1")


@pytest.mark.slow  # 3 s
def test_a_program_of_weights_that_were_held_in_bfloat16(tmp_path, rng):
    saved(tmp_path / "model", "esm2", Frozen(), "sequence_regression", rng, precision="bf16_weights")
    export([f"model={tmp_path / 'model'}", f"to={tmp_path / 'out'}", "as=torch_export"])
    model = torch.export.load(tmp_path / "out" / "model.pt2").module()
    tuned = load(tmp_path / "model")
    tuned.predictor.float()
    tuned = replace(tuned, description=replace(tuned.description, precision="fp32"))
    ids = torch.tensor(tuned.description.spec.tokenizer.encode(SEQUENCES[0]))[None].long()
    np.testing.assert_allclose(model(ids, torch.ones_like(ids)), tuned.predict(SEQUENCES[:1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["head.safetensors", "plmft.json"])
def test_a_damaged_model_is_told_and_nothing_is_written(tmp_path, name):
    saved_model(tmp_path / "model", "sequence_regression")
    (tmp_path / "model" / name).write_bytes((tmp_path / "model" / name).read_bytes()[:100])
    with pytest.raises(InputError, match=f"model/{name} can't be read .*Get the model's folder again"):
        export([f"model={tmp_path / 'model'}", f"to={tmp_path / 'out'}", "as=torch_export"])
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_scores_beside_a_copy_are_not_the_models(tmp_path):
    tuned = saved_model(tmp_path / "copy", "sequence_regression")
    metrics = {"test/mae": 0.5, "test/mae_ci_low": 0.4, "test/mae_ci_high": 0.6}
    (tmp_path / "summary.json").write_text(json.dumps({"metrics": metrics, "subset": True}))
    write_card(tuned, "onnx", tmp_path / "copy", None, tmp_path)
    assert "test/mae" not in (tmp_path / "README.md").read_text()
    (tmp_path / "copy").rename(tmp_path / "model")
    (tmp_path / "summary.json").write_text("[]")
    write_card(tuned, "onnx", tmp_path / "model", None, tmp_path)


def test_what_has_no_such_form_is_refused(tmp_path):
    tuned = saved_model(tmp_path / "model", "sequence_regression")
    with pytest.raises(InputError, match="tuning=full has no adapter"):
        export_adapter(tuned, tmp_path / "model", tmp_path / "out")
    cnn = saved_model(tmp_path / "cnn", "sequence_regression", "onehot_cnn")
    with pytest.raises(InputError, match="cnn is none of transformers' networks"):
        export_huggingface(cnn, tmp_path / "out")


def test_readme_tells_scores_classes_and_random_weights(tmp_path):
    run = tmp_path / "run"
    tuned = saved_model(run / "model", "sequence_classification")
    metrics = {"test/accuracy": 0.5, "test/accuracy_ci_low": 0.4, "test/accuracy_ci_high": 0.6, "test/mcc": 0.1}
    (run / "summary.json").write_text(json.dumps({"metrics": metrics, "subset": True}))
    for form in ("huggingface", "adapter", "onnx", "torch_export"):
        write_card(tuned, form, run / "model", "abc", run)
        text = (run / "README.md").read_text()
        assert "| test/accuracy | 0.500 | 0.400 to 0.600 |" in text
        assert "inside, outside, membrane" in text
        assert "RANDOM weights" in text
        assert "on a subset" in text
        assert "mcc" not in text


def test_adapter_of_a_published_base_names_it_and_its_revision(tmp_path):
    saved_model(tmp_path / "model", "sequence_regression", tuning=LORA)
    tuned = load(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "backbone")  # as it is where the base is a pinned revision of the hub
    file = tmp_path / "model" / "plmft.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps(text | {"base": {"source": "hub", "revision": "c0ffee", "included": False}}))
    published = replace(tuned.description, spec=replace(tuned.description.spec, hub="someone/esm", init="pretrained"))
    export_adapter(replace(tuned, description=published), tmp_path / "model", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/esm", "c0ffee")
    base = json.loads((tmp_path / "out" / "head.json").read_text())["base"]
    assert base == {"hub": "someone/esm", "revision": "c0ffee"}
    assert not (tmp_path / "out" / "base").exists()
