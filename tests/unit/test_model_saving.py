"""What we write, transformers and other readers open: same values, and names as on the hub."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel, EsmModel

from plmft.models.weights import build, load, locate, save_network
from tests.unit.small_models import FAMILIES, assert_same_hidden_states, randomised, small


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_write_opens_in_transformers_and_here(tmp_path, family):
    network = randomised(build(small(family)))
    save_network(network, tmp_path)
    theirs = BertModel if family == "bert" else EsmModel
    opened, report = theirs.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert {name for name in report["missing_keys"] if not name.startswith("contact_head.")} == set()
    assert_same_hidden_states(opened, network, rtol=0, atol=0)
    spec = small(family, path=str(tmp_path))
    assert_same_hidden_states(load(spec, locate(spec)), network, rtol=0, atol=0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("family", FAMILIES)
def test_names_that_we_write_are_the_hubs(tmp_path, family):
    save_network(build(small(family)), tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert not [name for name in names if "*" in name or "gamma" in name or "beta" in name]
    parts = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    parts += ["intermediate.dense", "output.dense"]
    parts += (
        ["attention.output.LayerNorm", "output.LayerNorm"] if family == "bert" else ["attention.LayerNorm", "LayerNorm"]
    )
    outer = {"embeddings.word_embeddings.weight"}
    outer |= {"embeddings.position_embeddings.weight"} if family != "esm2" else set()
    norms = {"esm2": ["encoder.emb_layer_norm_after"], "bert": ["embeddings.LayerNorm"]}
    norms["esm1b"] = [*norms["esm2"], "embeddings.layer_norm"]
    outer |= {f"{norm}.{kind}" for norm in norms[family] for kind in ("weight", "bias")}
    outer |= {"embeddings.token_type_embeddings.weight"} if family == "bert" else set()
    wanted = {f"encoder.layer.{n}.{part}.{kind}" for n in range(2) for part in parts for kind in ("weight", "bias")}
    if family == "esm2":
        wanted |= {f"encoder.layer.{n}.attention.self.rotary_embeddings.inv_freq" for n in range(2)}
    assert names == wanted | outer
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertModel" if family == "bert" else "EsmModel"]


def test_empty_tensors_are_not_written(tmp_path):
    network = build(small("bert"))
    network.encoder.layer[0].output.dense.weight = torch.nn.Parameter(torch.empty(0))
    with pytest.raises(RuntimeError, match="gather the weights"):
        save_network(network, tmp_path)
    assert not list(tmp_path.iterdir())
