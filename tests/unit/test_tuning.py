"""Each way of tuning learns what it should, and a saved model predicts the same to the last bit (field notes 18-20)."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load as read_bytes
from safetensors.torch import save as write_bytes
from transformers import AutoModel, EsmModel

from plmft import InputError
from plmft.models.build import build_predictor
from plmft.models.head_spec import ResidueHead, SequenceHead
from plmft.models.predictor import parameter_counts
from plmft.models.tuned import Description, Tuned, load, save
from plmft.models.tuning import Bias, DoRA, Frozen, Full, LastLayers, LoRA, QLoRA, Tuning
from plmft.models.weights import Located, locate
from plmft.models.windows import Windows
from plmft.training.optim import Optim
from tests.unit.networks import packed
from tests.unit.tuned_models import HEADS, LORA, RANDOM, predictor_of, saved, spec, train

DORA = DoRA(rank=2, alpha=4, dropout=0.0, targets=("attention", "feedforward"))
QLORA = QLoRA(rank=2, alpha=4, dropout=0.0, targets=("attention", "feedforward"))
UPPER = LoRA(rank=2, alpha=4, dropout=0.0, targets=("attention",), layers=1)
FOUR_BITS = pytest.param(QLORA, marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes"))


def named(tuning: Tuning) -> str:
    return tuning.name + ("_upper" if tuning == UPPER else "")


def shall_learn(tuning: Tuning, weights: str) -> bool:
    """By the weights' name in the backbone; small models have layers 0 and 1."""
    if tuning == UPPER:
        return ".layer.1.attention." in weights and ".lora_" in weights
    return {
        "full": True,
        "frozen": False,
        "last_layers": ".layer.1." in weights or "emb_layer_norm_after" in weights,
        "bias": weights.endswith("bias"),
    }.get(tuning.name, ".lora_" in weights)


@pytest.mark.parametrize(
    ("tuning", "family", "kind"),
    [(t, family, kind) for t in (Full(), Frozen(), LORA) for family in ("esm2", "esm1b", "bert") for kind in HEADS]
    + [
        (t, family, "residue_classification")
        for t in (DORA, UPPER, LastLayers(1), Bias())
        for family in ("esm2", "bert")
    ]
    + [pytest.param(QLORA, "bert", "residue_classification", marks=FOUR_BITS.marks)],
    ids=lambda x: x if isinstance(x, str) else named(x),
)
def test_each_tuning_learns_what_it_should(tuning: Tuning, family: str, kind: str, rng: np.random.Generator) -> None:
    predictor = predictor_of(family, tuning, kind)
    before = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    # random weights are of 0.02: constants that grow by as much in each step soon drown what tells residues apart
    losses = train(predictor, rng, family, lr=0.001 if tuning.name == "bias" else 0.02)
    assert losses[-1] < losses[0]
    for name, parameter in predictor.named_parameters():
        moved = not torch.equal(parameter, before[name])
        if name.startswith("head."):
            assert moved, f"{name} of the head did not learn"
        elif parameter.requires_grad and "key.bias" in name:
            # shifts all scores of a query alike, which softmax forgets: its gradient is 0 but for rounding
            assert shall_learn(tuning, name)
        else:
            assert moved == shall_learn(tuning, name), f"{name}: moved is {moved}"


def test_lora_sits_on_every_projection() -> None:
    predictor = predictor_of("esm2", LORA, "sequence_regression")
    adapted = [name for name, _ in predictor.backbone.network.named_modules() if name.endswith("lora_A.default")]
    assert len(adapted) == 2 * 6  # query, key, value, attention output, two feed-forward matrices in each of 2 layers
    only = predictor_of("esm2", LoRA(2, 4, 0.0, ("attention",)), "sequence_regression")
    assert len([n for n, _ in only.backbone.network.named_modules() if n.endswith("lora_A.default")]) == 2 * 4
    width, wide, rank = 32, 64, 2
    per_layer = 4 * 2 * width * rank + 2 * (width + wide) * rank
    head = parameter_counts(predictor.head)["total"]
    assert parameter_counts(predictor)["trainable"] == 2 * per_layer + head


def test_a_frozen_backbone_makes_no_graph(rng: np.random.Generator) -> None:
    predictor = predictor_of("esm2", Frozen(), "sequence_regression").train()
    assert not predictor.backbone.training and predictor.head.training
    _, batch = packed(rng, "esm2", [5, 9])
    assert not predictor.backbone(batch).requires_grad
    assert predictor(batch).requires_grad


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(
    ("family", "tuning"),
    [(f, t) for f in ("esm2", "esm1b", "bert") for t in (Full(), Frozen(), LORA)]
    + [("esm2", t) for t in (DORA, UPPER, LastLayers(1), Bias())]
    + [pytest.param("bert", QLORA, marks=FOUR_BITS.marks), ("onehot_cnn", Full())],
    ids=lambda x: x if isinstance(x, str) else named(x),
)
def test_a_saved_model_predicts_the_same(
    tmp_path: Path, family: str, tuning: Tuning, kind: str, rng: np.random.Generator
) -> None:
    predictor, _ = saved(tmp_path / "model", family, tuning, kind, rng)
    again = load(tmp_path / "model")
    sequences = ["MKV", "A", "W" * 60, "ACDEFGHIKLMNPQRSTVWYXUZOB"]
    records = [again.record(i, s) for i, s in enumerate(sequences)]
    expected = type(again)(predictor, again.description).predict_records(records, 50)
    found = again.predict_records(records, 50)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    public = again.predict(sequences)
    assert len(public) == 4
    if kind == "residue_classification":
        assert [len(p) for p in public] == [len(s) for s in sequences] and set("".join(public)) <= set("HEC")


@pytest.mark.parametrize("kind", ["sequence_classification", "sequence_multilabel", "pair_classification"])
def test_a_saved_model_of_any_kind_names_its_classes(tmp_path: Path, kind: str, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    head = SequenceHead("mean", False, 8, 0.0)
    predictor = build_predictor(spec(), RANDOM, tuning=Full(), head=head, kind=kind, outputs=3)
    names = ("Nucleus", "Cell membrane", "Golgi")
    save(predictor, Description(spec(), Full(), head, "demo", kind, names, ""), RANDOM, tmp_path / "model")
    again = load(tmp_path / "model")
    pairs = [["MKV", "AC"], ["WWW", "ACDEFGHIKL"]]
    columns = pairs if kind == "pair_classification" else pairs[:1]
    found = again.predict(*columns)
    assert len(found) == 2 and set(";".join(found).split(";")) <= {*names, ""}
    if kind == "pair_classification":
        assert again.predict(*columns[::-1]) == found
        with pytest.raises(InputError, match="demo, which needs a partner for each sequence"):
            again.predict(columns[0])
    else:
        with pytest.raises(InputError, match="demo, which takes no partners"):
            again.predict(*pairs)


def test_a_model_tuned_on_windows_predicts_in_windows(tmp_path: Path, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    parts = {"tuning": Full(), "head": ResidueHead(0.0), "kind": "residue_classification"}
    predictor = build_predictor(spec(), RANDOM, outputs=3, **parts)
    predictor.windows = Windows.of(60, spec().tokenizer)
    description = Description(
        spec(), Full(), ResidueHead(0.0), "demo", parts["kind"], ("H", "E", "C"), "", windows=True
    )
    save(predictor, description, RANDOM, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.predictor.windows == predictor.windows
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 9
    (found,) = again.predict([sequence])
    assert len(found) == 180 and again.predict([sequence]) == Tuned(predictor.eval(), description).predict([sequence])


@pytest.mark.parametrize("tuning", [LORA, DORA, FOUR_BITS, UPPER], ids=named)
def test_an_adapter_opens_with_peft_and_a_backbone_with_transformers(
    tmp_path: Path, tuning: Tuning, rng: np.random.Generator
) -> None:
    predictor, _ = saved(tmp_path / "model", "esm2", tuning, "sequence_regression", rng)
    base, info = EsmModel.from_pretrained(
        tmp_path / "model" / "backbone", add_pooling_layer=False, output_loading_info=True
    )
    assert {k for k in info["missing_keys"] if not k.startswith("contact_head")} == set() == info["unexpected_keys"]
    other = PeftModel.from_pretrained(base, tmp_path / "model" / "adapter").eval()
    _, batch = packed(rng, "esm2", [7, 30])
    tokens, mask = batch.padded(1)
    theirs = other(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[mask]
    torch.testing.assert_close(predictor.eval().backbone(batch), theirs, rtol=1e-5, atol=1e-5)


def test_a_tuned_backbone_can_be_tuned_on(tmp_path: Path, rng: np.random.Generator) -> None:
    saved(tmp_path / "model", "bert", Full(), "sequence_regression", rng)
    assert AutoModel.from_pretrained(tmp_path / "model" / "backbone").config.model_type == "bert"
    fresh = spec("bert")
    path = str(tmp_path / "model" / "backbone")
    chosen = type(fresh)(**{**vars(fresh), "path": path, "init": "pretrained"})
    build_predictor(
        chosen, locate(chosen), tuning=Full(), head=HEADS["sequence_regression"], kind="sequence_regression", outputs=1
    )


def test_a_hub_base_is_named_and_not_copied(tmp_path: Path, rng: np.random.Generator) -> None:
    saved(tmp_path / "lora", "esm2", LORA, "sequence_regression", rng, Located("hub", tmp_path, "a" * 40))
    assert not (tmp_path / "lora" / "backbone").exists()
    base = json.loads((tmp_path / "lora" / "plmft.json").read_text())["base"]
    assert base == {"source": "hub", "revision": "a" * 40, "included": False}
    saved(tmp_path / "full", "esm2", Full(), "sequence_regression", rng, Located("hub", tmp_path, "a" * 40))
    assert (tmp_path / "full" / "backbone" / "model.safetensors").is_file()


def test_a_model_that_was_saved_before_precision_was_noted_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    saved(tmp_path / "model", "esm2", LORA, "sequence_regression", rng)
    expected = load(tmp_path / "model").predict(["MKVAC", "WWW"])
    file = tmp_path / "model" / "plmft.json"
    text = json.loads(file.read_text())
    del text["precision"], text["tuning"]["layers"]
    file.write_text(json.dumps(text))
    assert load(tmp_path / "model").predict(["MKVAC", "WWW"]) == expected


def test_what_is_no_tuned_model_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match=r"no plmft\.json.*not its id: mlruns/work/RUN/model"):
        load(tmp_path)
    saved(tmp_path / "model", "esm2", Frozen(), "sequence_regression", rng)
    file = tmp_path / "model" / "plmft.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps({**text, "layout": 99}))
    with pytest.raises(InputError, match="layout 99"):
        load(tmp_path / "model")
    file.write_text(json.dumps({**text, "tuning": {"type": "annotations"}}))
    with pytest.raises(InputError, match="unknown part"):
        load(tmp_path / "model")
    with safe_open(tmp_path / "model" / "head.safetensors", "pt") as head:
        assert all(head.get_tensor(name).numel() for name in head.keys())  # noqa: SIM118


def without(content: bytes) -> None:
    return None


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def of_another(content: bytes) -> bytes:
    if content.startswith(b"{"):
        return b'{"layout": 1, "name": "another"}'
    return write_bytes({name: torch.zeros(3, 3) for name in read_bytes(content)})


@pytest.mark.parametrize("damage", [without, cut_off, of_another, lambda content: b"", lambda content: b"[]"])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("esm2", "plmft.json"),
        ("esm2", "head.safetensors"),
        ("esm2", "adapter/adapter_model.safetensors"),
        ("esm2", "backbone/model.safetensors"),
        ("onehot_cnn", "backbone/model.safetensors"),
    ],
)
def test_a_damaged_folder_is_told_with_what_to_do(tmp_path: Path, rng, family: str, name: str, damage) -> None:
    folder = tmp_path / "model"
    saved(folder, family, Full() if family == "onehot_cnn" else LORA, "sequence_regression", rng)
    content = damage((folder / name).read_bytes())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{folder}.* (again|Give its own|Name a run's folder)") as told:
        load(folder)
    assert "\n" not in str(told.value)


def test_bad_sequences_are_refused_when_predicting(tmp_path: Path, rng: np.random.Generator) -> None:
    saved(tmp_path / "model", "esm2", Frozen(), "sequence_regression", rng)
    tuned = load(tmp_path / "model")
    assert tuned.predict([]) == []
    for bad in ("", "mkv", "MK V", "M" * 61):
        with pytest.raises(InputError):
            tuned.predict(["MKV", bad])


def test_the_schedule_rises_and_falls() -> None:
    optim = Optim(1.0, 1, None, 0.0, 0.1, "linear", 1.0, None)
    rates = [optim.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and max(rates) == 1.0
    assert rates[55] == pytest.approx(0.5) and 0 < rates[-1] < 0.02
    cosine = Optim(1.0, 1, None, 0.0, 0.1, "cosine", 1.0, None)
    assert cosine.rate(55, 100) == pytest.approx(0.5) and cosine.rate(100, 100) == pytest.approx(0.0)
    assert Optim(1.0, 1, None, 0.0, 0.0, "constant", 1.0, None).rate(99, 100) == 1.0
    assert Optim(1.0, 4, 30, 0.0, 0.0, "constant", 1.0, None).total_steps(10) == 30
    assert Optim(1.0, 4, 300, 0.0, 0.0, "constant", 1.0, None).total_steps(10) == 40
