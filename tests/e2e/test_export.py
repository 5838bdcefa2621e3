"""Exported folders predict the same in a process in which plmft can't be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from plmft import InputError
from plmft.export import export as export_here
from tests.e2e.command import TIMEOUT_S, Ended, environment
from tests.unit.exported_models import LORA, SEQUENCES, expected, saved_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
# `None` in sys.modules makes any import of plmft fail, wherever it is installed
WITHOUT_PLMFT = """
import json, sys
sys.modules["plmft"] = None
sequences, folders = json.loads(sys.argv[1]), sys.argv[2:]
found = {}
for folder in folders:
    if folder.endswith("torch_export"):
        import torch
        files = {"plmft.json": ""}
        model = torch.export.load(folder + "/model.pt2", extra_files=files).module()
        about = json.loads(files["plmft.json"])
        rows = [about["prefix"] + [about["letters"].get(x, about["unknown"]) for x in s] + about["suffix"]
                for s in sequences]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [about["pad"]] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        found[folder] = model(ids, mask).tolist()
    else:
        sys.path.insert(0, folder)
        sys.modules.pop("predict", None)
        import predict
        found[folder] = [value.tolist() for value in predict.load(folder).outputs(sequences)]
        sys.path.pop(0)
try:
    import plmft.models
except ImportError:
    print(json.dumps(found))
"""


def export(runs: Path, *words: str) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "plmft.export", *words],
        capture_output=True,
        text=True,
        env=environment(runs),
        timeout=TIMEOUT_S,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_all_forms_predict_the_same_without_plmft(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = saved_model(tmp_path / "run" / "model", "sequence_classification", tuning=LORA)
    folders = []
    for form in ("huggingface", "adapter", "torch_export"):  # ONNX: tests of its own
        export_here([f"model={tmp_path / 'run'}", f"to={tmp_path / form}", f"as={form}"])
        assert str(tmp_path / form / "README.md") in capsys.readouterr().out
        folders.append(str(tmp_path / form))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PLMFT, json.dumps(SEQUENCES), *folders],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(runs),
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == folders
    for values in found.values():
        np.testing.assert_allclose(values, np.stack(expected(tuned)), rtol=1e-5, atol=1e-5)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_residue_classifier_is_one_of_transformers_own(tmp_path: Path, runs: Path) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tuned = saved_model(tmp_path / "run" / "model", "residue_classification")
    export_here([f"model={tmp_path / 'run'}", f"to={tmp_path / 'hf'}", "as=huggingface"])
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "hf").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "hf")(SEQUENCES[0], return_tensors="pt")
    scores = model(**tokens).logits[0, 1:-1].softmax(-1)
    np.testing.assert_allclose(scores.detach(), expected(tuned)[0], rtol=1e-5, atol=1e-5)
    assert model.config.id2label == {0: "H", 1: "E", 2: "C"}
    fasta = tmp_path / "proteins.fasta"
    fasta.write_text(f">first one\n{SEQUENCES[0]}\n>second\n{SEQUENCES[1][:6]}\n{SEQUENCES[1][6:]}\n")
    words = [sys.executable, "predict.py", str(fasta)]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path / "hf", env=environment(runs), timeout=TIMEOUT_S, check=True
    )
    wanted = tuned.predict(SEQUENCES[:2])
    assert done.stdout == f"id\tprediction\nfirst\t{wanted[0]}\nsecond\t{wanted[1]}\n"
    assert "MISSING" not in done.stderr
    (tmp_path / "table.csv").write_text("id,sequence\na,MKT\n")
    words = [sys.executable, "predict.py", "../table.csv"]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path / "hf", env=environment(runs), timeout=TIMEOUT_S
    )
    assert done.returncode == 2
    assert done.stderr == "predict.py: ../table.csv, line 1: 'id,sequence' is no FASTA, whose headers begin with '>'.\n"


def test_onnx_is_asked_of_its_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_model(tmp_path / "run" / "model", "sequence_classification", tuning=LORA)
    files = []
    monkeypatch.setattr("plmft.exporting.onnx.export_onnx", lambda tuned, file: files.append(file) or file.touch())
    export_here([f"model={tmp_path / 'run'}", f"to={tmp_path / 'out'}", "as=onnx"])
    assert [file.name for file in files] == ["model.onnx"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.onnx"]


def test_mistakes_are_told_and_leave_nothing(tmp_path: Path, runs: Path) -> None:
    saved_model(tmp_path / "run" / "model", "sequence_regression")
    model, to = f"model={tmp_path / 'run'}", f"to={tmp_path / 'out'}"
    export(runs, model, to, "as=adapter").refused("tuning=full has no adapter", "huggingface")
    for words, told in (
        ([model, f"to={tmp_path}", "as=huggingface"], "is there already, and is not replaced"),
        ([model, "as=huggingface"], "to= is missing"),
        ([model, to, "as=onyx"], "Did you mean 'onnx'"),
        ([model, "ot=here"], "ot=here: there is no such option. .*model, to, as"),
        ([f"{model}x", to, "as=onnx"], "there is no such folder"),
    ):
        with pytest.raises(InputError, match=told):
            export_here(words)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
