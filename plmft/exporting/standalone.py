"""Predict with the model in this folder. Needs torch, transformers and safetensors (and peft for an adapter), no plmft.

    python predict.py proteins.fasta > predictions.tsv

    import predict
    model = predict.load(".")
    model.predict(["MKTAYIAKQR", "GSHMLEDPVD"])        # numbers, classes, letters or contacts
    model.outputs(["MKTAYIAKQR"])                      # arrays: (), (C,), (L, C) or (L, L)

It reads FASTA alone and writes a header, then a line for each record. A record that can't be predicted is named on
stderr with its line, and the others follow. Exit code 0: all are predicted; 1: some are not; 2: there is no such file,
or it is no FASTA. For a task about pairs give a second list, or a FASTA whose neighbours are pairs. head.json says how
sequences become tokens and what comes out; the head's weights are in head.safetensors: README.md describes both.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

AMINO_ACIDS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # the 20 and X, B, Z, U, O, J: all letters, in upper case
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
        for number, row in enumerate(rows):
            for text in row:
                if why := self.refusal(text):
                    raise ValueError(f"Sequence {number}: {why}.")
        tokens = [[self._tokens(text) for text in row] for row in rows]
        found: dict[int, np.ndarray] = {}
        for batch in _batches([max(map(len, row)) * len(row) for row in tokens]):
            outputs = self._batch([row for number in batch for row in tokens[number]])
            found.update(zip(batch, outputs, strict=True))
        return [found[number] for number in range(len(rows))]

    def refusal(self, sequence: str) -> str | None:
        """Why the model can't take a sequence; None: it can."""
        longest, last = self.about["longest"], max(self.about["positions"] or [0])
        if not sequence:
            return "the sequence is empty"
        wrong = next(((at, letter) for at, letter in enumerate(sequence, 1) if letter not in AMINO_ACIDS), None)
        if wrong is not None:
            at, letter = wrong
            hint = "; write sequences in upper case" if letter.upper() in AMINO_ACIDS else ""
            return f"{letter!r} at position {at} of the sequence is no amino acid{hint}"
        if len(sequence) > longest:
            return f"{len(sequence)} residues; the model takes {longest}"
        return f"{len(sequence)} residues; the model's head looks at residue {last}" if len(sequence) < last else None

    def _tokens(self, sequence: str) -> list[int]:
        about = self.about
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


@dataclass
class Entry:
    """A record of a FASTA: its name up to the first space ("" without one), its sequence, the line of its header."""

    name: str
    sequence: str
    line: int


def read_fasta(path: str) -> list[Entry]:
    """Records in order. Raises: ValueError: no such file, an empty one, or no FASTA."""
    try:
        text = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror}).") from None
    entries: list[Entry] = []
    for number, line in enumerate((row.decode(errors="replace") for row in text.splitlines()), 1):
        if line.startswith(">"):
            entries.append(Entry("".join(line[1:].split(maxsplit=1)[:1]), "", number))
        elif entries:
            entries[-1].sequence += "".join(line.split())
        elif line.strip():
            raise ValueError(f"{path}, line {number}: {line[:40]!r} is no FASTA, whose headers begin with '>'.")
    if not entries:
        raise ValueError(f"{path}: the file is empty. Give FASTA.")
    return entries


def _taken(model: Model, path: str, entries: list[Entry]) -> list[list[Entry]]:
    """Records, or pairs of them, that can be predicted. The others are named on stderr."""
    size = 2 if model.about["kind"] == "pair_classification" else 1
    if len(entries) % size:
        raise ValueError(f"{path}: {len(entries)} records, but neighbours are pairs. Give an even number.")
    taken, names = [], set()
    for row in (entries[at : at + size] for at in range(0, len(entries), size)):
        bad = False
        for entry in row:
            why = model.refusal(entry.sequence) if entry.name else "it has no id"
            if size == 1 and entry.name in names and not why:
                why = "the id stands before in the file; ids must be unique"
            if why:
                told = f"{path}, line {entry.line}: {entry.name or 'a record'} is left out: {why}."
                print(f"predict.py: {told}", file=sys.stderr)
                bad = True
        if not bad:
            taken.append(row)
            names.update(entry.name for entry in row)
    return taken


def main(arguments: list[str]) -> int:
    """Lines of id and prediction, separated by a tab, below a header; returns the exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return 0
    try:
        if len(arguments) != 1:
            raise ValueError("give one FASTA file: python predict.py proteins.fasta > predictions.tsv")
        entries = read_fasta(arguments[0])
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = load(Path(__file__).parent)
        taken = _taken(model, arguments[0], entries)
    except ValueError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    sequences = [[entry.sequence for entry in row] for row in taken]
    found = model.predict(*map(list, zip(*sequences, strict=True))) if taken else []
    print("id\tprediction")
    for row, prediction in zip(taken, found, strict=True):
        print(f"{'|'.join(entry.name for entry in row)}\t{prediction}")
    left_out = len(entries) - sum(map(len, taken))
    if left_out:
        print(f"predict.py: {left_out} of {len(entries)} records are left out.", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
