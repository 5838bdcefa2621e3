"""The model that is exported computes what the packed one does, for each family, kind and head, padded or not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.exporting.onnx import about, as_rectangle
from plmft.exporting.rectangle import Rectangle
from plmft.models.head_spec import PairHead, ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.tuned import load
from plmft.models.tuning import Frozen, LoRA
from tests.conftest import random_sequence
from tests.unit.networks import FAMILIES, TOKENIZERS, backbone
from tests.unit.tuned_models import saved

LENGTHS = [9, 31, 12, 30]
MEAN = SequenceHead("mean", False, 8, 0.0)


def model_of(family, head, kind):
    body = backbone(family)
    torch.manual_seed(1)
    predictor = Predictor(body, head.build(body.width, 1 if kind == "sequence_regression" else 3, kind), kind)
    predictor.fit_scale([1.0, 4.0, 9.0])
    for norm in (part for part in predictor.modules() if isinstance(part, torch.nn.BatchNorm1d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    spec = SimpleNamespace(tokenizer=TOKENIZERS[family])
    return SimpleNamespace(predictor=predictor.eval(), description=SimpleNamespace(spec=spec))


def both(tuned, rng, kind, family="esm2", lengths=LENGTHS):
    """Predictions by record: of the rectangle, cut to residues; and of the packed model."""
    tokenizer, pair = TOKENIZERS[family], kind == "pair_classification"
    sequences = [random_sequence(rng, n) for n in lengths]
    targets = {"residue_classification": lambda n: np.zeros(n, np.int64), "contacts": lambda n: np.ones((n, 3))}
    target = targets.get(kind, lambda n: np.zeros(3, np.int8) if kind == "sequence_multilabel" else 0)
    given = sequences[::2] if pair else sequences
    partners = sequences[1::2] if pair else [""] * len(given)
    records = [
        Record(str(i), s, target(len(s)), "test", partner=p)
        for i, (s, p) in enumerate(zip(given, partners, strict=True))
    ]
    batch = EncodedSplit(records, tokenizer, kind).pack(np.arange(len(records)))
    ids, mask = as_rectangle([tokenizer.encode(s) for s in sequences], tokenizer.pad or 0)
    with torch.no_grad():
        found = Rectangle(tuned)(ids, mask).numpy()
    if kind in ("residue_classification", "contacts"):
        before = len(tokenizer.prefix)
        inside = [slice(before, before + n) for n in lengths]
        found = [row[i] if kind != "contacts" else row[i, i] for row, i in zip(found, inside, strict=True)]
    return found, tuned.predictor.predict(batch)


def assert_equal(pair):
    found, wanted = pair
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family(family, rng):
    tuned = model_of(family, ResidueHead(0.0), "residue_classification")
    assert_equal(both(tuned, rng, "residue_classification", family))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (MEAN, "sequence_regression"),
        (SequenceHead("max", True, 8, 0.0), "sequence_classification"),
        (SequenceHead("attention", False, 8, 0.0), "sequence_multilabel"),
        (SequenceHead("cls", False, 8, 0.0), "sequence_regression"),
        (SequenceHead("concat", False, 8, 0.0, (2, 9)), "sequence_regression"),
        (SequenceHead("mean", False, 8, 0.0, (1, 7)), "sequence_regression"),
        (MEAN, "pair_classification"),
        (PairHead(4, 8, 0.0), "contacts"),
    ],
    ids=str,
)
def test_each_head(head, kind, rng):
    assert_equal(both(model_of("esm2", head, kind), rng, kind))


def test_masked_residues_count_by_sequence(rng):
    tuned = model_of("esm2", MEAN, "sequence_regression")
    tokenizer = TOKENIZERS["esm2"]
    encoded = [tokenizer.encode(random_sequence(rng, n)) for n in (12, 30)]
    encoded[0][[3, 5, 8]] = tokenizer.mask
    together, alone = as_rectangle(encoded, 1), as_rectangle(encoded[:1], 1)
    rectangle = Rectangle(tuned)
    with torch.no_grad():
        torch.testing.assert_close(rectangle(*together)[:1], rectangle(*alone), rtol=1e-5, atol=1e-5)


def test_adapters_must_be_merged(tmp_path, rng):
    saved(tmp_path / "m", "esm2", LoRA(2, 4, 0.0, ("attention",)), "residue_classification", rng)
    with pytest.raises(InputError, match="merge=True"):
        Rectangle(load(tmp_path / "m"))
    assert Rectangle(load(tmp_path / "m", merge=True))


def test_what_a_run_held_in_bfloat16_is_exported_in_float32(tmp_path, rng):
    saved(tmp_path / "m", "esm2", Frozen(), "residue_classification", rng, precision="bf16_weights")
    tuned = load(tmp_path / "m", merge=True)
    assert torch.bfloat16 in {weights.dtype for weights in tuned.predictor.parameters()}
    held = {name: weights.float() for name, weights in tuned.predictor.state_dict().items()}
    assert_equal(both(tuned, rng, "residue_classification"))
    assert {weights.dtype for weights in Rectangle(tuned).parameters()} == {torch.float32}
    assert all(torch.equal(weights, held[name]) for name, weights in tuned.predictor.state_dict().items())


def test_the_metadata_encode_as_the_tokenizer(tmp_path, rng):
    saved(tmp_path / "m", "bert", LoRA(2, 4, 0.0, ("attention",)), "residue_classification", rng)
    tuned = load(tmp_path / "m", merge=True)
    told = about(tuned)
    sequence = "ACDEFGHIKLMNPQRSTVWYXUZOBJ"
    ids = [*told["prefix"], *(told["letters"].get(letter, told["unknown"]) for letter in sequence), *told["suffix"]]
    assert ids == tuned.description.spec.tokenizer.encode(sequence).tolist()
    assert told["classes"] == ["H", "E", "C"]
    assert told["longest"] == 60
