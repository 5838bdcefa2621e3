"""Local checkpoints load to the network that was saved, or are refused with a reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertModel, EsmForMaskedLM, EsmForSequenceClassification, EsmModel

from plmft import InputError
from plmft.models.spec import OneHotCnnSpec
from plmft.models.weights import Located, build, load, locate
from tests.unit.small_models import CONFIGS, FAMILIES, assert_same_hidden_states, randomised, saved, small

SAVED = [
    ("esm2", EsmForMaskedLM, "safetensors"),
    ("esm2", EsmForMaskedLM, "bin"),
    ("esm2", EsmModel, "safetensors"),
    ("esm2", EsmForSequenceClassification, "bin"),
    ("esm1b", EsmForMaskedLM, "safetensors"),
    ("bert", BertForMaskedLM, "safetensors"),
    ("bert", BertForMaskedLM, "bin"),
    ("bert", BertModel, "safetensors"),
]


@pytest.mark.parametrize(("family", "network_class", "kind"), SAVED)
def test_a_saved_checkpoint_loads_to_equal_hidden_states(tmp_path, family, network_class, kind):
    network = randomised(network_class(CONFIGS[family]))
    spec = small(family, path=str(saved(network, tmp_path, kind)))
    located = locate(spec)
    loaded = load(spec, located)
    assert located == Located("folder", tmp_path, None)
    assert not loaded.training and {weights.dtype for weights in loaded.parameters()} == {torch.float32}
    assert_same_hidden_states(loaded, network.base_model, rtol=0, atol=0)


def test_shards_and_half_precision_load_to_float32(tmp_path):
    network = randomised(BertForMaskedLM(CONFIGS["bert"])).half()
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    spec = small("bert", path=str(tmp_path))
    loaded = load(spec, locate(spec))
    assert_same_hidden_states(loaded, network.float().base_model, rtol=0, atol=0)
    next(tmp_path.glob("model-00002-of-*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors .* with all its shards"):
        locate(spec)


def test_rotary_frequencies_of_an_old_checkpoint_are_kept(tmp_path):
    # Published ones are saved once a layer and may be rounded to half precision, which the weights learnt with.
    network = randomised(EsmForMaskedLM(CONFIGS["esm2"]))
    state = load_file(saved(network, tmp_path) / "model.safetensors")
    state = {name: tensor for name, tensor in state.items() if "inv_freq" not in name}
    rounded = network.esm.rotary_embeddings.inv_freq.half()
    for layer in range(2):
        state[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = rounded.clone()
    state["esm.embeddings.position_embeddings.weight"] = torch.rand(64, 32)  # the published ESM-2 has it, unused
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spec = small("esm2", path=str(tmp_path))
    loaded = load(spec, locate(spec))
    assert torch.equal(loaded.rotary_embeddings.inv_freq, rounded.float())
    network.esm.rotary_embeddings.inv_freq.copy_(rounded)
    assert_same_hidden_states(loaded, network.esm, rtol=0, atol=0)


def test_a_random_network_follows_the_seed_and_has_no_heads():
    for family in FAMILIES:
        spec = small(family, init="random")
        assert locate(spec) == Located("random")
        torch.manual_seed(3)
        first = load(spec, Located("random")).state_dict()
        torch.manual_seed(3)
        second = build(spec).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not [name for name in first if "contact" in name or "pooler" in name or "lm_head" in name]


def test_the_cnn_is_always_random():
    spec = OneHotCnnSpec("cnn", channels=8, kernel=5, layers=2, parameters=1, citation="", licence="")
    assert locate(spec) == Located("random")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers": 3}, r"layers is 3 for small, but 2 in it.*correct model\.layers"),
        ({"width": 64, "heads": 8}, r"width is 64 .*, but 32 in it; heads is 8 .*, but 4 in it"),
        ({"feedforward": 50}, "feedforward is 50"),
        ({"positions": 65}, "positions is 65"),
        ({"family": "esm1b"}, "position_embedding_type is absolute .* but rotary in it; emb_layer_norm_before is True"),
        ({"family": "bert"}, "vocabulary is 30 .*; model_type is bert for small, but esm in it"),
    ],
)
def test_a_wrong_typed_figure_fails_before_anything_is_loaded(tmp_path, changes, told):
    path = saved(EsmForMaskedLM(CONFIGS["esm2"]), tmp_path)
    with pytest.raises(InputError, match=told):
        locate(small(changes.pop("family", "esm2"), path=str(path), **changes))


def test_a_wrong_parameter_count_fails(tmp_path):
    spec = small("bert", path=str(saved(BertModel(CONFIGS["bert"]), tmp_path)), parameters=7)
    with pytest.raises(InputError, match=r"parameters is 7 for small.*correct model\.parameters"):
        load(spec, locate(spec))


@pytest.mark.parametrize("name", ["token_dropout", "is_decoder", "rope_theta"])
def test_a_checkpoint_that_computes_otherwise_is_refused(tmp_path, name):
    path = saved(EsmModel(CONFIGS["esm2"]), tmp_path)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps(settings | {name: 5.0 if name == "rope_theta" else not settings[name]})
    )
    with pytest.raises(InputError, match=f"{name} is "):
        locate(small("esm2", path=str(path)))


def test_of_a_config_only_figures_are_used(tmp_path):
    # Settings that make transformers run code, fetch kernels or quantise do nothing; an old config lacks model_type.
    network = randomised(BertModel(CONFIGS["bert"]))
    path = saved(network, tmp_path)
    settings = json.loads((path / "config.json").read_text())
    del settings["model_type"]
    settings |= {
        "auto_map": {"AutoModel": "evil.Evil"},
        "quantization_config": {"quant_method": "evil"},
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "transformers_weights": "../evil.bin",
    }
    (path / "config.json").write_text(json.dumps(settings))
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    spec = small("bert", path=str(path))
    assert_same_hidden_states(load(spec, locate(spec)), network, rtol=0, atol=0)


def broken_folder(name, folder):
    saved(randomised(EsmForMaskedLM(CONFIGS["esm2"])), folder)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    layer = "esm.encoder.layer.1.output.dense"
    match name:
        case "no config":
            (folder / "config.json").unlink()
        case "no weights":
            weights.unlink()
        case "config cut off":
            (folder / "config.json").write_text('{"hidden_size":')
        case "weights cut off":
            weights.write_bytes(weights.read_bytes()[:5000])
        case "missing":
            del state[f"{layer}.weight"]
        case "surplus":
            state["esm.encoder.layer.2.output.dense.weight"] = torch.rand(3)
        case "other shape":
            state[f"{layer}.bias"] = torch.rand(31)
    if name in ("missing", "surplus", "other shape"):
        save_file(state, weights, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no config", r"model\.path=.* has no config\.json.*model\.checkpoint=FILE"),
        ("no weights", "has no model.safetensors or pytorch_model.bin"),
        ("config cut off", r"config\.json can't be read as JSON"),
        ("weights cut off", r"model\.safetensors can't be read .*cut off"),
        ("missing", r"Weights missing: encoder\.layer\.1\.output\.dense\.weight \(1\)"),
        ("surplus", r"Weights surplus: .*encoder\.layer\.2\.output\.dense\.weight \(1\)"),
        ("other shape", r"of other shape: encoder\.layer\.1\.output\.dense\.bias \(31,\)"),
    ],
)
def test_a_broken_folder_is_refused(tmp_path, name, told):
    spec = small("esm2", path=str(broken_folder(name, tmp_path)))
    with pytest.raises(InputError, match=told):
        load(spec, locate(spec))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"path": "a", "checkpoint": "b.pt"}, r"model\.path=a and model\.checkpoint=b\.pt exclude each other"),
        ({"path": "a", "init": "random"}, r"model\.path=a and model\.init=random exclude each other"),
        ({"checkpoint": "b.pt", "init": "random"}, "exclude each other"),
        ({"path": "nowhere"}, r"model\.path=nowhere: is no folder"),
        ({"checkpoint": "nowhere.pt"}, r"model\.checkpoint=nowhere\.pt: there is no such file"),
        ({}, r"no weights are published. Set model\.init=random"),
    ],
)
def test_settings_that_lead_nowhere(changes, told):
    with pytest.raises(InputError, match=told):
        locate(small("esm2", **changes))


def test_bert_has_no_fair_esm_checkpoint():
    with pytest.raises(InputError, match=r"takes ESM-2 or ESM-1b; for small give model\.path"):
        locate(small("bert", checkpoint="b.pt"))


def test_a_pickle_with_code_is_refused(tmp_path):
    path = saved(BertModel(CONFIGS["bert"]), tmp_path, "bin")
    torch.save({"weight": Path.touch}, path / "pytorch_model.bin")
    spec = small("bert", path=str(path))
    with pytest.raises(InputError, match=r"pytorch_model\.bin is refused, because it holds code"):
        load(spec, locate(spec))


def test_digest_follows_the_weights_alone(tmp_path):
    first = saved(randomised(BertModel(CONFIGS["bert"])), tmp_path / "first")
    moved = shutil.copytree(first, tmp_path / "moved")
    (moved / "README.md").write_text("of no matter")
    other = saved(BertModel(CONFIGS["bert"]), tmp_path / "other")
    digests = [Located("folder", folder).digest() for folder in (first, moved, other)]
    assert digests[0] == digests[1] != digests[2]
    assert Located("random").digest() is None
