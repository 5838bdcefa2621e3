"""The peers' side: Hugging Face's Trainer (with PEFT), fair-esm's extraction loop, esm-cpp. Knows nothing of plmft.

Each is used as its own documentation shows. Run in the peers' environment: python -m benchmarks.peer_jobs
"""

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.serve import measured, peak_host_gb, serve

IGNORE = -100
ESM = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
NAMES = {  # of fair-esm's layers, in transformers' names
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}


def versions() -> dict[str, Any]:
    """Of the packages that are compared with."""
    from importlib.metadata import version

    names = ("torch", "transformers", "accelerate", "peft", "fair-esm", "esm-cpp", "numpy")
    return {name: version(name) for name in names}


def checkpoint(folder: str, config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Draw random weights as transformers does, and write them for every side: the hub's layout, and fair-esm's .pt."""
    from safetensors.torch import save_file
    from transformers import EsmConfig, EsmForMaskedLM

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = EsmForMaskedLM(EsmConfig(**config))
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items() if "inv_freq" not in name}
    state.pop("lm_head.decoder.weight")  # tied to the word embeddings
    frequencies = network.state_dict()["esm.rotary_embeddings.inv_freq"]
    for layer in range(config["num_hidden_layers"]):  # as in the hub's files
        state[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.clone()
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    (place / "vocab.txt").write_text("\n".join(ESM) + "\n")
    network.config.architectures = ["EsmForMaskedLM"]
    (place / "config.json").write_text(network.config.to_json_string())
    arguments = {
        "encoder_layers": config["num_hidden_layers"],
        "encoder_embed_dim": config["hidden_size"],
        "encoder_attention_heads": config["num_attention_heads"],
        "token_dropout": True,
    }
    whole = {"cfg": {"model": Namespace(**arguments)}, "model": _fair_esm_state(state, config["num_hidden_layers"])}
    head = {name: whole["model"].pop(name) for name in list(whole["model"]) if name.startswith("contact_head.")}
    torch.save(whole, place / "esm2_random.pt")
    torch.save({"model": head}, place / "esm2_random-contact-regression.pt")
    return {}


def _fair_esm_state(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    found = {
        "embed_tokens.weight": state["esm.embeddings.word_embeddings.weight"],
        "lm_head.weight": state["esm.embeddings.word_embeddings.weight"],
        "lm_head.bias": state["lm_head.bias"],
    }
    frequencies = state["esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"]
    for kind in ("weight", "bias"):
        found[f"contact_head.regression.{kind}"] = state[f"esm.contact_head.regression.{kind}"]
        found[f"emb_layer_norm_after.{kind}"] = state[f"esm.encoder.emb_layer_norm_after.{kind}"]
        found |= {f"lm_head.{part}.{kind}": state[f"lm_head.{part}.{kind}"] for part in ("dense", "layer_norm")}
        for layer in range(layers):
            for name, theirs in NAMES.items():
                found[f"layers.{layer}.{name}.{kind}"] = state[f"esm.encoder.layer.{layer}.{theirs}.{kind}"]
    return found | {f"layers.{layer}.self_attn.rot_emb.inv_freq": frequencies for layer in range(layers)}


def grouped(lengths: list[int], batch_size: int, seed: int) -> dict[str, Any]:
    """The order that Trainer's group_by_length gives to a training split."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    generator = torch.Generator().manual_seed(seed)
    return {"order": list(LengthGroupedSampler(batch_size, lengths=lengths, generator=generator))}


def train(
    checkpoint: str,
    material: str,
    batches: list[list[str]],
    *,
    kind: str,
    lora: dict[str, Any] | None,
    arguments: dict[str, Any],
    warmup: int,
    score: bool = False,
) -> dict[str, Any]:
    """Train with Hugging Face's Trainer on these batches, in this order.

    Args:
        material: JSON lines with id, sequence, target and split. batches: ids, by step.
        kind: residue (a class for each) or sequence (a number). lora: of PEFT; None: all weights learn.
        arguments: of TrainingArguments, what is not its default. score: give the test split's metric, too.
    """
    from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

    rows = {row["id"]: row for row in map(json.loads, Path(material).read_text().splitlines())}
    order = [rows[name] for batch in batches for name in batch]
    set_seed(arguments["seed"])
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), _model(checkpoint, kind, lora, order)
    classes = model.config.label2id if kind == "residue" else None
    marks = _Marks()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(Path(material).parent / "trainer"), **arguments),
        train_dataset=[_features(row, tokenizer, classes) for row in order],
        data_collator=_collator(tokenizer, kind),
        callbacks=[marks.callback()],
    )
    trainer.train()
    residues = [sum(len(rows[name]["sequence"]) for name in batch) for batch in batches]
    answer = measured(marks.times, residues, warmup) | _peaks()
    if not score:
        return answer
    tests = [_features(row, tokenizer, classes) for row in rows.values() if row["split"] == "test"]
    return answer | {"metric": _metric(trainer.predict(tests), kind)}


def _peaks() -> dict[str, float]:
    device = {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if torch.cuda.is_initialized() else {}
    return {"peak_host_gb": peak_host_gb()} | device


def _model(checkpoint: str, kind: str, lora: dict[str, Any] | None, rows: list[dict[str, Any]]) -> torch.nn.Module:
    from transformers import EsmForSequenceClassification, EsmForTokenClassification

    if kind == "residue":
        letters = sorted({letter for row in rows for letter in row["target"]} - {"."})
        numbers = {letter: number for number, letter in enumerate(letters)}
        names = {number: letter for letter, number in numbers.items()}
        model = EsmForTokenClassification.from_pretrained(checkpoint, label2id=numbers, id2label=names)
    else:
        model = EsmForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
    if lora is None:
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    task = TaskType.TOKEN_CLS if kind == "residue" else TaskType.SEQ_CLS
    config = LoraConfig(
        task_type=task, r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["target_modules"], bias="none"
    )
    return get_peft_model(model, config)


def _features(row: dict[str, Any], tokenizer: Any, classes: dict[str, int] | None) -> dict[str, Any]:
    features = dict(tokenizer(row["sequence"]))
    if classes is None:
        return features | {"labels": float(row["target"])}
    return features | {"labels": [IGNORE, *(classes.get(letter, IGNORE) for letter in row["target"]), IGNORE]}


def _collator(tokenizer: Any, kind: str) -> Any:
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    return DataCollatorForTokenClassification(tokenizer) if kind == "residue" else DataCollatorWithPadding(tokenizer)


def _metric(found: Any, kind: str) -> float:
    if kind == "residue":
        labelled = found.label_ids != IGNORE
        return float((found.predictions.argmax(-1) == found.label_ids)[labelled].mean())
    ranks = [np.argsort(np.argsort(values.reshape(-1))) for values in (found.predictions, found.label_ids)]
    return float(np.corrcoef(*ranks)[0, 1])


class _Marks:
    """When each optimizer step ended; a GPU is waited for."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        outer = self

        class Marking(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()
                outer.times.append(time.perf_counter())

        return Marking()


def extract(
    checkpoint: str, sequences: list[str], layer: int, tokens: int, keep: str, device: str, limit: int | None = None
) -> dict[str, Any]:
    """fair-esm's own loop (its command esm-extract): batches by length, all layers, mean over residues.

    Args:
        limit: only so many of the sequences.
        tokens: its --toks_per_batch. keep: a file for the (N, D) means, in the order of `sequences`.
    """
    import esm

    sequences = sequences[:limit]
    torch.serialization.add_safe_globals([Namespace])  # torch 2.6 and later ask for it
    model, alphabet = esm.pretrained.load_model_and_alphabet_local(str(Path(checkpoint) / "esm2_random.pt"))
    model = model.eval().to(device)
    names = [str(number) for number in range(len(sequences))]
    dataset = esm.FastaBatchedDataset(names, sequences)
    batches = dataset.get_batch_indices(tokens, extra_toks_per_seq=1)
    loader = torch.utils.data.DataLoader(dataset, collate_fn=alphabet.get_batch_converter(), batch_sampler=batches)
    means: dict[int, torch.Tensor] = {}
    start = time.perf_counter()
    with torch.no_grad():
        for labels, strings, ids in loader:
            out = model(ids.to(device), repr_layers=[layer], return_contacts=False)
            states = out["representations"][layer].to("cpu")
            for row, label in enumerate(labels):
                means[int(label)] = states[row, 1 : len(strings[row]) + 1].mean(0).clone()
    seconds = time.perf_counter() - start
    np.save(keep, torch.stack([means[number] for number in range(len(sequences))]).numpy())
    return {"seconds": seconds, "residues": sum(map(len, sequences)), "peak_host_gb": peak_host_gb()}


def esm_cpp(checkpoint: str, sequences: list[str], int8: bool, keep: str, limit: int | None = None) -> dict[str, Any]:
    """esm-cpp's packed scheduler over all sequences; its INT8 is its own quantisation of the same weights.

    Its batches give logits and no hidden states. `keep`: a file for the means of the first few sequences, one by one
    and untimed, to tell how exact it is.
    """
    import esm_cpp as engine

    sequences = sequences[:limit]
    model = engine.Model.load_from_safetensors(str(Path(checkpoint) / "model.safetensors"))
    if int8:
        model.quantize_weights()
    tokenizer = engine.Tokenizer()
    ids = [np.asarray(tokenizer.encode(sequence), dtype=np.int32) for sequence in sequences]
    start = time.perf_counter()
    model.forward_scheduled(ids)
    seconds = time.perf_counter() - start
    states = [model.forward_with_hidden_states(few, np.ones_like(few))[1][-1] for few in ids[:8]]
    shaped = [np.asarray(state).reshape(len(few), -1) for state, few in zip(states, ids, strict=False)]
    np.save(keep, np.stack([state[1:-1].mean(0) for state in shaped]))
    return {
        "seconds": seconds,
        "residues": sum(map(len, sequences)),
        "peak_host_gb": peak_host_gb(),
        "kernel": engine.current_isa(),
        "threads": engine.Model.num_threads,
    }


if __name__ == "__main__":
    serve(
        {
            "versions": versions,
            "checkpoint": checkpoint,
            "grouped": grouped,
            "train": train,
            "extract": extract,
            "esm_cpp": esm_cpp,
        }
    )
