"""conf/model: every choice is complete, fits its published network exactly, and is read without torch."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from plmft import InputError
from plmft.models.direct_spec import DirectSpec
from plmft.models.spec import TransformerSpec
from plmft.models.weights import build, locate

CONF = Path(__file__).parents[2] / "conf" / "model"
CHOICES = sorted(file.stem for file in CONF.glob("*.yaml"))
PUBLISHED = {  # layers, width, heads: Lin et al. 2023 (table S1), Rives et al. 2021, Elnaggar et al. 2022
    "esm2_8m": (6, 320, 20),
    "esm2_35m": (12, 480, 20),
    "esm2_150m": (30, 640, 20),
    "esm2_650m": (33, 1280, 20),
    "esm2_3b": (36, 2560, 40),
    "esm2_15b": (48, 5120, 40),
    "esm1b": (33, 1280, 20),
    "protbert": (30, 1024, 16),
    "protbert_bfd": (30, 1024, 16),
}

SCRATCH = ("onehot_cnn", "onehot_resnet", "onehot_bilstm")
DIRECT = ("onehot_linear", "majority")


def read(choice):
    values = yaml.safe_load((CONF / f"{choice}.yaml").read_text())
    module, _, name = values.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name), values


def spec_of(choice, **changes):
    target, values = read(choice)
    return target(**values | changes)


def test_every_published_model_is_a_choice():
    assert set(CHOICES) == {*PUBLISHED, "esm2_tiny", *SCRATCH, *DIRECT}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_types_every_field_and_its_own_name(choice):
    target, values = read(choice)
    assert list(values) and set(values) == {field.name for field in dataclasses.fields(target)}
    assert values["name"] == choice
    assert values["path"] is None and values["checkpoint"] is None


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice not in DIRECT])
def test_parameters_are_those_of_the_built_network(choice):
    spec = spec_of(choice)
    with torch.device("meta"):
        network = build(spec) if isinstance(spec, TransformerSpec) else spec.build()
    assert {weights.device.type for weights in network.parameters()} == {"meta"}
    assert sum(weights.numel() for weights in network.parameters()) == spec.parameters


@pytest.mark.parametrize("choice", CHOICES)
def test_from_scratch_is_what_has_no_weights_to_load(choice):
    spec = spec_of(choice)
    assert spec.from_scratch == (choice in (*SCRATCH, *DIRECT)) and isinstance(spec, DirectSpec) == (choice in DIRECT)
    if spec.from_scratch:
        assert spec.context is None and spec.tokenizer.name == "onehot" and locate(spec).source == "random"


def test_the_resnet_and_the_lstm_are_as_large_as_peers():
    """Xu et al. 2022, fluorescence, with their pooling and two-layer heads: 11,300,354 and 27,080,328 weights."""
    resnet, lstm = spec_of("onehot_resnet"), spec_of("onehot_bilstm")
    width = resnet.width
    assert resnet.parameters + (width + 1) + (width * width + width) + (width + 1) == 11_300_354
    letters, width = 21, lstm.hidden
    first = 2 * 4 * width * (width - letters)  # theirs reads a vector for each letter, ours the letter itself
    vectors = letters * width + width
    assert lstm.parameters + first + vectors + 7 + 2 * (width * width + width) + (width + 1) == 27_080_328


@pytest.mark.parametrize("choice", PUBLISHED)
def test_architecture_is_as_published(choice):
    spec = spec_of(choice)
    assert (spec.layers, spec.width, spec.heads) == PUBLISHED[choice]
    assert spec.feedforward == 4 * spec.width
    assert spec.init == "pretrained"
    assert spec.hub.partition("/")[0] in {"facebook", "Rostlab"}
    assert len(spec.revision) == 40 and set(spec.revision) <= set("0123456789abcdef")


def published_config(choice):
    """What the hub's config.json says: ESM's is complete, ProtBERT's leaves much to BERT's defaults."""
    layers, width, heads = PUBLISHED[choice]
    config = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    config |= {"intermediate_size": 4 * width, "hidden_act": "gelu", "initializer_range": 0.02}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if choice.startswith("protbert"):
        return config | {"max_position_embeddings": 40000, "type_vocab_size": 2, "vocab_size": 30}
    config |= {"model_type": "esm", "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "layer_norm_eps": 1e-5}
    config |= {"max_position_embeddings": 1026, "token_dropout": True, "is_folding_model": False, "vocab_list": None}
    rotary = choice.startswith("esm2")
    return config | {"position_embedding_type": "rotary" if rotary else "absolute", "emb_layer_norm_before": not rotary}


@pytest.mark.parametrize("choice", PUBLISHED)
def test_figures_agree_with_the_hubs_config(tmp_path, choice):
    (tmp_path / "config.json").write_text(json.dumps(published_config(choice)))
    (tmp_path / "model.safetensors").write_bytes(b"not looked into")
    assert locate(spec_of(choice, path=str(tmp_path))).path == tmp_path


def test_a_spec_is_read_without_torch():
    heavy = "torch transformers peft mlflow pytorch_lightning pandas"
    code = f"import sys, plmft.models.spec; assert not set('{heavy}'.split()) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("choice", "changes", "told"),
    [
        ("esm2_8m", {"heads": 3}, "model.width=320: must be an even multiple of model.heads=3"),
        ("esm2_8m", {"width": 60, "heads": 20}, "must be an even multiple"),
        ("protbert", {"heads": 3}, "must be a multiple of model.heads=3"),
        ("protbert", {"vocabulary": 33}, "model.vocabulary=33: the tokens of bert are 30"),
        ("esm1b", {"context": 1023}, "model.context=1023: at most 1022 residues"),
        ("protbert", {"context": 39_999}, "at most 39998 residues"),
    ],
)
def test_figures_that_fit_no_network_are_refused(choice, changes, told):
    with pytest.raises(InputError, match=told):
        spec_of(choice, **changes)


def test_rotary_positions_end_nowhere():
    assert spec_of("esm2_8m", context=5000).context == 5000


def test_families_have_their_own_tokenizer():
    assert [spec_of(c).tokenizer.name for c in ("esm2_8m", "esm1b", "protbert", "onehot_cnn")] == [
        "esm",
        "esm",
        "protbert",
        "onehot",
    ]
    assert isinstance(spec_of("esm2_tiny"), TransformerSpec) and spec_of("esm2_tiny").init == "random"
