"""A tuned model as a folder for plain transformers, or as an adapter for plain PEFT.

    config.json, model.safetensors   `huggingface`: backbone with the adapters added; with the head inside where a class
                                     of transformers has the same one (a linear layer on each residue)
    adapter_config.json, adapter_model.safetensors, base/   `adapter`: LoRA or DoRA in PEFT's layout, and the weights
                                     beside it unless they are a published revision
    tokenizer_config.json, vocab.txt what AutoTokenizer reads
    head.safetensors, head.json      the head where it isn't inside, and how to use it
    predict.py                       does all of it without plmft: plmft/exporting/standalone.py, copied

All weights are written in float32.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from plmft import InputError
from plmft.exporting.onnx import about
from plmft.models.spec import TransformerSpec
from plmft.models.tensors import write_tensors
from plmft.models.tuned import Tuned
from plmft.models.tuning import LoRA
from plmft.models.weights import save_network

STANDALONE = Path(__file__).with_name("standalone.py")
# the names of a head's tensors as they are written
NAMES = {
    "sequence": {"layers.0": "norm", "layers.2": "hidden", "layers.5": "output", "score": "score"},
    "residue": {"linear": "output"},
    "pair": {
        "project.0": "norm",
        "project.2": "project",
        "layers.0": "hidden",
        "layers.2": "output",
        "separation": "separation",
    },
}
SHAPES = {"residue_classification": "residue", "contacts": "pair"}  # of other kinds: sequence


def export_huggingface(tuned: Tuned, folder: Path) -> None:
    """Write backbone and head; the adapters must be merged (`load(..., merge=True)`).

    Raises: InputError: the network is none of transformers'.
    """
    _check_transformer(tuned, "huggingface")
    save_network(tuned.predictor.backbone.network, folder)
    _add_contact_head(folder)
    inside = tuned.description.kind == "residue_classification"
    if inside:
        _put_head_inside(tuned, folder)
    _write_rest(tuned, folder, head="classifier" if inside else "head.safetensors", base=None)


def export_adapter(tuned: Tuned, model: Path, folder: Path) -> None:
    """Write the adapter of the tuned model in the folder `model`.

    Raises: InputError: it has none, or the network is none of transformers'.
    """
    _check_transformer(tuned, "adapter")
    made = tuned.description
    if not isinstance(made.tuning, LoRA):
        raise InputError(f"as=adapter: tuning={made.tuning.name} has no adapter. Take as=huggingface.")
    shutil.copytree(model / "adapter", folder, dirs_exist_ok=True)
    included = (model / "backbone").is_dir()
    revision = json.loads((model / "plmft.json").read_text())["base"]["revision"]
    base = {"folder": "base"} if included else {"hub": made.spec.hub, "revision": revision}
    if included:
        shutil.copytree(model / "backbone", folder / "base")
        _add_contact_head(folder / "base")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config |= {"base_model_name_or_path": base.get("hub") or "base", "revision": revision, "inference_mode": True}
    file.write_text(json.dumps(config, indent=2) + "\n")
    _write_rest(tuned, folder, head="head.safetensors", base=base)


def _check_transformer(tuned: Tuned, form: str) -> None:
    spec = tuned.description.spec
    if not isinstance(spec, TransformerSpec):
        raise InputError(f"as={form}: {spec.name} is none of transformers' networks. Take as=onnx or as=torch_export.")


def _add_contact_head(folder: Path) -> None:
    """Zeros for the contact head of transformers' ESM, which plmft does not tune: loading would report it missing."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "esm":
        return
    state = load_file(folder / "model.safetensors")
    maps = config["num_hidden_layers"] * config["num_attention_heads"]
    state |= {"contact_head.regression.weight": torch.zeros(1, maps), "contact_head.regression.bias": torch.zeros(1)}
    write_tensors(state, folder / "model.safetensors")


def _put_head_inside(tuned: Tuned, folder: Path) -> None:
    """Make the folder one of EsmForTokenClassification or BertForTokenClassification."""
    config = json.loads((folder / "config.json").read_text())
    kind, name = ("esm", "Esm") if config["model_type"] == "esm" else ("bert", "Bert")
    classes = tuned.description.classes
    config |= {
        "architectures": [f"{name}ForTokenClassification"],
        "id2label": {str(number): label for number, label in enumerate(classes)},
        "label2id": {label: number for number, label in enumerate(classes)},
        "classifier_dropout": None,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {f"{kind}.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    linear = tuned.predictor.head.linear
    state |= {"classifier.weight": linear.weight, "classifier.bias": linear.bias}
    write_tensors(state, folder / "model.safetensors")


def _write_rest(tuned: Tuned, folder: Path, *, head: str, base: dict[str, Any] | None) -> None:
    if head != "classifier":
        write_tensors(_head_state(tuned), folder / "head.safetensors")
    options = tuned.description.head
    told = about(tuned) | {
        "head": head,
        "base": base,
        "pooling": getattr(options, "pooling", None),
        "positions": list(getattr(options, "positions", None) or ()) or None,
        "target_mean": float(tuned.predictor.target_mean),
        "target_deviation": float(tuned.predictor.target_deviation),
    }
    (folder / "head.json").write_text(json.dumps(told, indent=2) + "\n")
    _write_tokenizer(tuned.description.spec, folder)
    shutil.copyfile(STANDALONE, folder / "predict.py")


def _head_state(tuned: Tuned) -> dict[str, torch.Tensor]:
    names = NAMES[SHAPES.get(tuned.description.kind, "sequence")]
    state = {}
    for key, value in tuned.predictor.head.state_dict().items():
        module, _, tensor = key.rpartition(".")
        if tensor != "num_batches_tracked":
            state[f"{names[module]}.{tensor}"] = value.float()
    return state


def _write_tokenizer(spec: TransformerSpec, folder: Path) -> None:
    """What AutoTokenizer makes the same ids from, for known letters; ProtBERT's wants spaces between them."""
    vocabulary = spec.tokenizer.vocabulary
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    names = ("pad_token", "unk_token", "cls_token", "mask_token")
    if spec.family == "bert":
        config: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
        tokens = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
        config["sep_token"] = "[SEP]"
    else:
        config = {"tokenizer_class": "EsmTokenizer"}
        tokens = ("<pad>", "<unk>", "<cls>", "<mask>")
        config["eos_token"] = "<eos>"
    config |= dict(zip(names, tokens, strict=True))
    config["model_max_length"] = spec.context + len(spec.tokenizer.prefix) + len(spec.tokenizer.suffix)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
