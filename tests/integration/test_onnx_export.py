"""Exported files, read by ONNX Runtime in a process that has neither plmft nor PyTorch."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.exporting.rectangle import Rectangle
from plmft.models.head_spec import ResidueHead
from plmft.models.tuned import load
from plmft.models.tuning import Frozen, Full, LoRA
from tests.conftest import random_sequence
from tests.unit.networks import TOKENIZERS
from tests.unit.test_onnx_rectangle import MEAN, model_of
from tests.unit.tuned_models import saved

LENGTHS = (1, 40, 17)
READER = """
import json, sys
sys.modules["plmft"] = sys.modules["torch"] = None  # an import of either fails
import numpy as np, onnxruntime
folder, sequences = sys.argv[1], json.loads(sys.argv[2])
session = onnxruntime.InferenceSession(folder + "/model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["plmft"])
found = {}
for name, group in {"together": sequences, "alone": sequences[:1]}.items():
    ids = [about["prefix"] + [about["letters"].get(c, about["unknown"]) for c in s] + about["suffix"] for s in group]
    longest = max(map(len, ids))
    tokens = np.array([row + [about["pad"]] * (longest - len(row)) for row in ids])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    found[name] = session.run(None, {"input_ids": tokens, "attention_mask": mask})[0]
np.savez(folder + "/found.npz", **found)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "tuning", "kind", "precision"),
    [
        ("esm2", LoRA(2, 4, 0.0, ("attention", "feedforward")), "residue_classification", "fp32"),
        ("bert", Full(), "sequence_regression", "fp32"),
        ("esm2", Frozen(), "sequence_regression", "bf16_weights"),
    ],
)
def test_equal_in_a_process_without_plmft(family, tuning, kind, precision, tmp_path, rng):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from plmft.exporting.onnx import export_onnx, read_about

    saved(tmp_path / "m", family, tuning, kind, rng, precision=precision)
    tuned = load(tmp_path / "m", merge=True)
    tuned = replace(tuned, description=replace(tuned.description, precision="fp32"))
    export_onnx(tuned, tmp_path / "out" / "model.onnx")
    assert [part.name for part in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert b"/plmft/" not in (tmp_path / "out" / "model.onnx").read_bytes()  # no path of this machine's code
    assert read_about(tmp_path / "out" / "model.onnx")["kind"] == kind
    sequences = [random_sequence(rng, n) for n in LENGTHS]
    command = [sys.executable, "-I", "-c", READER, str(tmp_path / "out"), json.dumps(sequences)]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path)
    found = np.load(tmp_path / "out" / "found.npz")
    wanted = tuned.predict_records([tuned.record(i, s) for i, s in enumerate(sequences)], 4096)
    for name in ("together", "alone"):
        for row, theirs, length in zip(found[name], wanted, LENGTHS, strict=False):
            mine = row if kind == "sequence_regression" else row[1 : 1 + length]
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "head", "kind"),
    [("onehot_bilstm", ResidueHead(0.0), "residue_classification"), ("esm2", MEAN, "pair_classification")],
)
def test_every_size_is_free(family, head, kind, tmp_path, rng, capfd):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    from plmft.exporting.onnx import as_rectangle, export_onnx

    tuned, tokenizer = model_of(family, head, kind), TOKENIZERS[family]
    spec = SimpleNamespace(tokenizer=tokenizer, name="small", context=None)
    tuned.description = SimpleNamespace(spec=spec, kind=kind, head=head, classes=(), unit="", task="demo")
    export_onnx(tuned, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for lengths in ((5, 6), (9, 31, 12, 30), (7, 7, 8, 8, 1, 2)):
        ids, mask = as_rectangle([tokenizer.encode(random_sequence(rng, n)) for n in lengths], tokenizer.pad or 0)
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            wanted = Rectangle(tuned)(ids, mask).numpy()
        kept = mask.bool().numpy() if kind == "residue_classification" else slice(None)
        np.testing.assert_allclose(found[kept], wanted[kept], rtol=1e-5, atol=1e-5)
    assert "VerifyOutputSizes" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["dynamic", "static"])
def test_int8_in_onnx_runtime(bits, tmp_path, rng):
    pytest.importorskip("onnxscript")
    from plmft.bench.compress_ort import OrtPredictor, make
    from plmft.data.packing import EncodedSplit

    saved(tmp_path / "m", "esm2", Full(), "residue_classification", rng)
    tuned = load(tmp_path / "m")
    records = [tuned.record(i, random_sequence(rng, n)) for i, n in enumerate((30, 12, 45))]
    batch = EncodedSplit(records, tuned.description.spec.tokenizer, "residue_classification").pack(np.arange(3))
    from plmft.bench.compress_ort import feed

    np.savez(tmp_path / "feed-0.npz", **feed(batch, 1))
    make(tmp_path / "m", tmp_path, bits)
    whole, smaller = (OrtPredictor(tmp_path / f"{name}.onnx", tuned, 1)(batch) for name in ("fp32", bits))
    for ours, found in zip(tuned.predictor.predict(batch), whole, strict=True):
        np.testing.assert_allclose(found, ours, atol=1e-5)
    agreement = np.corrcoef(np.concatenate(smaller).ravel(), np.concatenate(whole).ravel())[0, 1]
    assert 0.98 < agreement < 1
    assert (tmp_path / f"{bits}.onnx").stat().st_size < 0.8 * (tmp_path / "fp32.onnx").stat().st_size


def test_a_missing_package_is_named(monkeypatch):
    import importlib.util

    from plmft.exporting.onnx import require

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'onnx, onnxscript\. Install them with: pip install -e "\.\[onnx\]"'):
        require("onnx", "onnxscript")
