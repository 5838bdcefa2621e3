"""A fair-esm checkpoint gives the same hidden states in our network as in fair-esm, and no code in it runs."""

import argparse
import dataclasses
from pathlib import Path

import esm
import pytest
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2

from plmft import InputError
from plmft.models.spec import TransformerSpec
from plmft.models.tokenizer import ESM
from plmft.models.weights import Located, build, load, locate

LAYERS, WIDTH, HEADS = 3, 32, 4
ALPHABET = esm.data.Alphabet.from_architecture("ESM-1b")
FAMILIES = ("esm2", "esm1b")


def small(family, checkpoint, **changes):
    figures = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "feedforward": 4 * WIDTH}
    figures |= {"vocabulary": 33, "context": 50, "positions": 1026 if family == "esm2" else 64}
    spec = TransformerSpec("small", family, **figures, parameters=1, hub=None, revision=None, citation="", licence="")
    with torch.device("meta"):
        count = sum(weights.numel() for weights in build(spec).parameters())
    return dataclasses.replace(spec, **{"parameters": count, "checkpoint": str(checkpoint)} | changes)


def fair(family):
    """A random network of fair-esm, norms and biases too."""
    torch.manual_seed(0)
    if family == "esm2":
        network = ESM2(LAYERS, WIDTH, HEADS, ALPHABET, token_dropout=True)
    else:
        network = ProteinBertModel(arguments(""), ALPHABET)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(0.2 * torch.randn_like(weights))
    return network.eval()


def arguments(prefix):
    """ESM-1b's training arguments; fair-esm stores them with the prefix `encoder_`, and takes them without."""
    named = {"layers": LAYERS, "embed_dim": WIDTH, "ffn_embed_dim": 4 * WIDTH, "attention_heads": HEADS}
    more = {"arch": "roberta_large", "max_positions": 62, "token_dropout": True}
    more |= {} if prefix else {"emb_layer_norm_before": True}
    return argparse.Namespace(**{prefix + name: value for name, value in named.items()}, **more)


def checkpoint(network, file, half=False):
    """As the published files are laid out; their contact regression lies in a file apart."""
    state = {k: v.half() if half else v for k, v in network.state_dict().items() if not k.startswith("contact_head")}
    outer = {name: f"encoder.{'' if name.startswith('lm_head') else 'sentence_encoder.'}{name}" for name in state}
    saved = {"model": {outer[name]: tensor for name, tensor in state.items()}}
    if isinstance(network, ESM2):
        settings = {"encoder_layers": LAYERS, "encoder_embed_dim": WIDTH, "encoder_attention_heads": HEADS}
        saved["cfg"] = {"model": argparse.Namespace(**settings, token_dropout=True)}
    else:
        saved["args"] = arguments("encoder_")
    torch.save(saved, file)
    return file


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_every_layer_equal_fair_esms(tmp_path, family, prefixed):
    network = fair(family)
    file = checkpoint(network, tmp_path / "model.pt")
    if not prefixed:
        saved = torch.load(file, weights_only=False)
        saved["model"] = {name.split("encoder.")[-1]: tensor for name, tensor in saved["model"].items()}
        torch.save(saved, file)
    spec = small(family, file)
    located = locate(spec)
    loaded = load(spec, located)
    assert located == Located("fair_esm", file) and not loaded.training
    _, _, tokens = ALPHABET.get_batch_converter()([("", "MKTAYIAKQRQISFVKXX"), ("", "ACDEFGHIK"), ("", "W")])
    tokens[0, 4] = tokens[1, 2] = tokens[1, 5] = ESM.mask
    mask = tokens != ESM.pad
    with torch.no_grad():
        wanted = network(tokens, repr_layers=range(LAYERS + 1))["representations"]
        found = loaded(tokens, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    assert len(found) == len(wanted) == LAYERS + 1
    for layer in range(LAYERS + 1):
        torch.testing.assert_close(found[layer][mask], wanted[layer][mask], rtol=1e-5, atol=1e-5)


def test_half_precision_is_loaded_as_float32(tmp_path):
    spec = small("esm2", checkpoint(fair("esm2"), tmp_path / "model.pt", half=True))
    loaded = load(spec, locate(spec))
    assert {weights.dtype for weights in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.embeddings.word_embeddings.weight, fair("esm2").embed_tokens.weight.half().float())
    frequencies = fair("esm2").layers[0].self_attn.rot_emb.inv_freq
    assert torch.equal(loaded.rotary_embeddings.inv_freq, frequencies.half().float())  # kept, as the weights learnt


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers": 4}, "layers is 4 for small, but 3 in it"),
        ({"heads": 8}, "heads is 8 for small, but 4 in it"),
        ({"feedforward": 64}, "feedforward is 64 for small, but 128 in it"),
        ({"family": "esm1b"}, "position_embedding_type is absolute for small, but rotary in it"),
    ],
)
def test_another_network_is_refused(tmp_path, changes, told):
    file = checkpoint(fair("esm2"), tmp_path / "model.pt")
    spec = small(changes.pop("family", "esm2"), file, **changes)
    with pytest.raises(InputError, match=told):
        load(spec, locate(spec))


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_and_surplus_weights_are_told(tmp_path, family):
    file = checkpoint(fair(family), tmp_path / "model.pt")
    saved = torch.load(file, weights_only=False)
    weights = saved["model"]
    weights["encoder.sentence_encoder.layers.1.odd"] = weights.pop("encoder.sentence_encoder.layers.1.fc2.bias")
    torch.save(saved, file)
    spec = small(family, file)
    with pytest.raises(
        InputError, match=r"missing: encoder\.layer\.1\.output\.dense\.bias \(1\); surplus: layers\.1\.odd"
    ):
        load(spec, locate(spec))


class Evil:
    marker = Path("to be set")

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Evil, "marker", tmp_path / "marker")
    file = checkpoint(fair("esm2"), tmp_path / "model.pt")
    torch.save(torch.load(file, weights_only=False) | {"extra": Evil()}, file)
    spec = small("esm2", file)
    with pytest.raises(InputError, match=r"model\.pt is refused, because it holds code \("):
        load(spec, locate(spec))
    assert not Evil.marker.exists()
    torch.load(file, weights_only=False)  # the trap does spring where it is not refused
    assert Evil.marker.exists()


@pytest.mark.parametrize("kept", [0, 100, 20_000])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kept):
    file = checkpoint(fair("esm2"), tmp_path / "model.pt")
    assert file.stat().st_size > kept
    file.write_bytes(file.read_bytes()[:kept])
    spec = small("esm2", file)
    with pytest.raises(InputError, match=r"can't be read as a PyTorch file|is refused"):
        load(spec, locate(spec))


@pytest.mark.parametrize("saved", [[1, 2], {"weights": {}}, {"model": {}}, {"model": {}, "args": {"layers": 3}}])
def test_another_file_is_told_from_a_checkpoint(tmp_path, saved):
    torch.save(saved, tmp_path / "model.pt")
    spec = small("esm2", tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"is no fair-esm checkpoint.*model\.path=FOLDER"):
        load(spec, locate(spec))
