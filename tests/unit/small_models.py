"""Small networks of each family, random in every weight, and their comparison; used by the tests of models."""

import dataclasses

import torch
from safetensors.torch import load_file
from transformers import BertConfig, EsmConfig

from plmft.models.spec import TransformerSpec
from plmft.models.weights import build

FAMILIES = ("esm2", "esm1b", "bert")
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
ESM_BASE = {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "layer_norm_eps": 1e-5, "token_dropout": True}
CONFIGS = {
    "esm2": EsmConfig(**SIZES, **ESM_BASE, max_position_embeddings=64, position_embedding_type="rotary"),
    "esm1b": EsmConfig(**SIZES, **ESM_BASE, max_position_embeddings=64, emb_layer_norm_before=True),
    "bert": BertConfig(**SIZES, vocab_size=30, max_position_embeddings=64),
}


def small(family, **changes):
    figures = {"layers": 2, "width": 32, "heads": 4, "feedforward": 48, "context": 50, "positions": 64}
    figures |= {"vocabulary": 30 if family == "bert" else 33, "hub": None, "revision": None}
    spec = TransformerSpec("small", family, **figures, parameters=1, citation="", licence="")
    with torch.device("meta"):
        count = sum(weights.numel() for weights in build(spec).parameters())
    return dataclasses.replace(spec, **{"parameters": count} | changes)


def randomised(network):
    """Every weight random, norms and biases too, so that none can be left out unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(0.5 * torch.randn_like(weights))
    return network.eval()


def saved(network, folder, kind="safetensors"):
    network.save_pretrained(folder)
    if kind == "bin":
        state = load_file(folder / "model.safetensors")
        torch.save(state, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def assert_same_hidden_states(found, wanted, **tolerance):
    """All layers, for a batch with padding and a masked token."""
    torch.manual_seed(1)
    tokens = torch.randint(5, 24, (2, 12))
    tokens[0, 3] = 32 if found.config.model_type == "esm" else 4
    mask = torch.ones_like(tokens)
    mask[1, 8:] = 0
    tokens[1, 8:] = found.config.pad_token_id
    with torch.no_grad():
        states = [n(tokens, attention_mask=mask, output_hidden_states=True).hidden_states for n in (found, wanted)]
    assert len(states[0]) == len(states[1]) == 3
    for mine, theirs in zip(*states, strict=True):
        torch.testing.assert_close(mine[mask.bool()], theirs[mask.bool()], **tolerance)
