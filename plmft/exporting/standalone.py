"""Predict with the model in this folder. Needs torch, transformers and safetensors (and peft for an adapter), no plmft.

    python predict.py proteins.fasta > predictions.tsv

    import predict
    model = predict.load(".")
    model.predict(["MKTAYIAKQR", "GSHMLEDPVD"])        # numbers, classes, letters or contacts
    model.outputs(["MKTAYIAKQR"])                      # arrays: (), (C,), (L, C) or (L, L)

For a task about pairs give a second list, or a FASTA whose neighbours are pairs. head.json says how sequences become
tokens and what comes out; the head's weights are in head.safetensors: README.md describes both.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

MIN_SEPARATION = 6  # of residues whose contact is predicted
TOKENS_PER_BATCH = 4096  # padding included; a single sequence may have more


def load(folder: Path | str, device: str = "cpu") -> "Model":
    """The model of a folder, in float32 and evaluation mode."""
    return Model(Path(folder), device)


class Model:
    """Network, head, and what head.json says of them."""

    def __init__(self, folder: Path, device: str) -> None:
        self.about = json.loads((folder / "head.json").read_text())
        self.device = device
        self.network = _network(folder, self.about).float().eval().to(device)
        file = folder / "head.safetensors"
        self.head = {name: value.to(device) for name, value in load_file(file).items()} if file.exists() else {}

    def predict(self, sequences: list[str], partners: list[str] | None = None) -> list[float] | list[str]:
        """For each sequence, or pair, a number in the task's unit, the name of a class, names of labels joined by `;`,
        a letter for each residue, or the L likeliest contacts as `3-41:0.912;5-39:0.874`.

        Raises: ValueError: a sequence that is empty, too long or holds something else than letters; missing partners.
        """
        return [self._named(found) for found in self.outputs(sequences, partners)]

    @torch.no_grad()
    def outputs(self, sequences: list[str], partners: list[str] | None = None) -> list[np.ndarray]:
        """float32 for each sequence or pair: () in the task's unit; (C,) or (L, C) probabilities; (L, L) of contact."""
        rows = [[sequence] for sequence in sequences]
        if (self.about["kind"] == "pair_classification") != (partners is not None):
            raise ValueError("A task about pairs takes two lists, any other task takes one.")
        if partners is not None:
            rows = [[first, second] for first, second in zip(sequences, partners, strict=True)]
        tokens = [[self._tokens(text) for text in row] for row in rows]
        found: dict[int, np.ndarray] = {}
        for batch in _batches([max(map(len, row)) * len(row) for row in tokens]):
            outputs = self._batch([row for number in batch for row in tokens[number]])
            found.update(zip(batch, outputs, strict=True))
        return [found[number] for number in range(len(rows))]

    def _tokens(self, sequence: str) -> list[int]:
        about = self.about
        if not 0 < len(sequence) <= about["longest"]:
            raise ValueError(f"{len(sequence)} residues: the model takes 1 to {about['longest']}.")
        if not (sequence.isascii() and sequence.isalpha() and sequence.isupper()):
            raise ValueError(f"{sequence[:20]}...: a sequence is made of the letters A to Z.")
        if len(sequence) < max(about["positions"] or [0]):
            raise ValueError(f"{len(sequence)} residues: the head looks at residue {max(about['positions'])}.")
        letters = [about["letters"].get(letter, about["unknown"]) for letter in sequence]
        return [*about["prefix"], *letters, *about["suffix"]]

    def _batch(self, rows: list[list[int]]) -> list[np.ndarray]:
        about, longest = self.about, max(map(len, rows))
        ids = torch.tensor([row + [about["pad"]] * (longest - len(row)) for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        places = torch.arange(longest, device=self.device)[None, :]
        mask = places < lengths[:, None]
        result = self.network(input_ids=ids, attention_mask=mask.long())
        before, after = len(about["prefix"]), len(about["suffix"])
        residue = (places >= before) & (places < lengths[:, None] - after)
        if about["kind"] == "residue_classification":
            scores = result.logits if about["head"] == "classifier" else self._linear("output", result[0])
            return [row[inside].softmax(-1).cpu().numpy() for row, inside in zip(scores, residue, strict=True)]
        vectors = result[0]
        if about["kind"] == "contacts":
            return [self._contacts(row[inside]) for row, inside in zip(vectors, residue, strict=True)]
        outputs = self._sequence_head(self._pooled(vectors, residue))
        if about["kind"] == "sequence_regression":
            scaled = outputs[:, 0] * about["target_deviation"] + about["target_mean"]
            return list(scaled.cpu().numpy())
        several = about["kind"] == "sequence_multilabel"
        return list((outputs.sigmoid() if several else outputs.softmax(-1)).cpu().numpy())

    def _pooled(self, vectors_NLD: Tensor, residue_NL: Tensor) -> Tensor:
        pooling, positions = self.about["pooling"], self.about["positions"]
        if positions:
            kept = torch.tensor(positions, device=self.device) - 1 + len(self.about["prefix"])
            vectors_NLD, residue_NL = vectors_NLD[:, kept], residue_NL[:, kept]
        inside = residue_NL[:, :, None]
        if pooling == "concat":
            return vectors_NLD.flatten(1)
        if pooling == "cls":
            return vectors_NLD[:, 0]
        if pooling == "max":
            return vectors_NLD.masked_fill(~inside, float("-inf")).amax(1)
        if pooling == "attention":
            weights = self._linear("score", vectors_NLD).masked_fill(~inside, float("-inf")).softmax(1)
            return (vectors_NLD * weights).sum(1)
        return (vectors_NLD * inside).sum(1) / inside.sum(1)

    def _sequence_head(self, pooled_ND: Tensor) -> Tensor:
        """Sum, product and distance for pairs; normalised with the values of training; two layers."""
        head, x = self.head, pooled_ND
        if self.about["kind"] == "pair_classification":
            first, second = x[::2], x[1::2]
            x = torch.cat([first + second, first * second, (first - second).abs()], dim=1)
        if "norm.running_mean" in head:
            values = [head[f"norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
            x = F.batch_norm(x, *values)
        return self._linear("output", F.gelu(self._linear("hidden", x)))

    def _contacts(self, vectors_LD: Tensor) -> np.ndarray:
        """Product and distance of both residues' projections; a bias by separation."""
        head = self.head
        x = F.layer_norm(vectors_LD, vectors_LD.shape[-1:], head["norm.weight"], head["norm.bias"])
        x = self._linear("project", x)
        rows = []
        for at, row in enumerate(x):  # a row at a time: all pairs of a long protein would not fit into memory
            pairs = torch.cat([row * x, (row - x).abs()], dim=1)
            apart = (torch.arange(len(x), device=self.device) - at).abs()
            bias = head["separation.weight"][apart.clamp(max=len(head["separation.weight"]) - 1), 0]
            scores = self._linear("output", F.gelu(self._linear("hidden", pairs)))[:, 0] + bias
            rows.append(scores.sigmoid() * (apart >= MIN_SEPARATION))
        return torch.stack(rows).cpu().numpy()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.head[f"{name}.weight"], self.head[f"{name}.bias"])

    def _named(self, found: np.ndarray) -> float | str:
        kind, classes = self.about["kind"], self.about["classes"]
        if kind == "sequence_regression":
            return float(found)
        if kind == "contacts":
            first, second = np.triu_indices(len(found), k=MIN_SEPARATION)
            order = np.argsort(-found[first, second], kind="stable")[: len(found)]
            pairs = zip(first[order], second[order], strict=True)
            return ";".join(f"{i + 1}-{j + 1}:{found[i, j]:.3f}" for i, j in pairs)
        if kind == "sequence_multilabel":
            return ";".join(name for name, value in zip(classes, found, strict=True) if value >= 0.5)
        if kind == "residue_classification":
            return "".join(classes[number] for number in found.argmax(-1))
        return classes[int(found.argmax())]


def _network(folder: Path, about: dict) -> torch.nn.Module:
    from transformers import AutoModel, AutoModelForTokenClassification

    if about["head"] == "classifier":
        return AutoModelForTokenClassification.from_pretrained(folder)
    if about["base"] is None:
        return AutoModel.from_pretrained(folder, add_pooling_layer=False)
    from peft import PeftModel

    base = about["base"]
    place = folder / base["folder"] if base.get("folder") else base["hub"]
    network = AutoModel.from_pretrained(place, revision=base.get("revision") or "main", add_pooling_layer=False)
    return PeftModel.from_pretrained(network, folder).merge_and_unload()


def _batches(tokens: list[int]) -> list[list[int]]:
    """Numbers of records, the longest first, under a budget of tokens with padding."""
    batches: list[list[int]] = []
    for number in sorted(range(len(tokens)), key=lambda at: -tokens[at]):
        if batches and tokens[batches[-1][0]] * (len(batches[-1]) + 1) <= TOKENS_PER_BATCH:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def read_fasta(path: str) -> tuple[list[str], list[str]]:
    """Names, up to the first space, and sequences in upper case."""
    names, sequences = [], []
    for line in Path(path).read_text().splitlines():
        if line.startswith(">"):
            names.append(line[1:].split(maxsplit=1)[0] if line[1:].strip() else str(len(names) + 1))
            sequences.append("")
        elif names:
            sequences[-1] += line.strip().upper().removesuffix("*")
    return names, sequences


def main(arguments: list[str]) -> None:
    """Lines of name and prediction, separated by a tab."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit(__doc__)
    model = load(Path(__file__).parent)
    names, sequences = read_fasta(arguments[0])
    if model.about["kind"] == "pair_classification":
        found = model.predict(sequences[::2], sequences[1::2])
        names = [f"{first}|{second}" for first, second in zip(names[::2], names[1::2], strict=True)]
    else:
        found = model.predict(sequences)
    for name, prediction in zip(names, found, strict=True):
        print(f"{name}\t{prediction}")


if __name__ == "__main__":
    main(sys.argv[1:])
