"""python -m benchmarks.quantized: ONNX Runtime in INT8 beside plmft's bf16, on proteins of real lengths.

The same model with the same head on the same sequences, from token ids to class probabilities of every residue. The
sides take turns; medians over rounds. ONNX Runtime takes rectangles: its sequences are sorted by length, and its batch
is the best of several, found before. Weights are random, which changes no time; agreement is with plmft in fp32.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.compare import faster, interleave, rate
from plmft.bench.compress_ort import OrtPredictor, feed, quantize_dynamic, quantize_static
from plmft.bench.compress_variants import VARIANTS, Given, Predict, state_bytes
from plmft.bench.material import draw, real_sequences
from plmft.config.compose import compose_config, parts_of
from plmft.data.packing import EncodedSplit, PackedBatch, cut
from plmft.data.records import Record
from plmft.data.sampler import EvaluationBatches
from plmft.exporting.onnx import export_onnx
from plmft.models.attention import implementation
from plmft.models.build import build_predictor
from plmft.models.head_spec import ResidueHead
from plmft.models.spec import TransformerSpec
from plmft.models.tuned import Description, Tuned
from plmft.models.tuning import Full
from plmft.models.weights import Located

CLASSES = ("H", "E", "C")
BUDGETS = (512, 1024, 2048, 4096, 8192)  # tokens a batch that ONNX Runtime is tried with
PACKED = 4096
REST_S = 0.3  # between sides: threads of the one before stop spinning
OURS, THEIRS, EXACT = "plmft bf16", "ONNX Runtime INT8", "plmft fp32"


def main(arguments: list[str] | None = None) -> int:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantized", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="esm2_8m", help="a name of conf/model")
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.getLogger().setLevel(logging.ERROR)
    folder = os.environ.get("PLMFT_DATA")
    pool, source = real_sequences(Path(folder) if folder else None)
    config = OmegaConf.to_container(compose_config([f"model={options.model}"]), resolve=True)
    spec = parts_of({"model": config["model"]})["model"]
    split = encoded(draw(pool, options.sequences, 0, spec.context), spec)
    with tempfile.TemporaryDirectory() as scratch:
        sides = made(spec, split, Path(scratch), options.threads)
        answers = interleave({name: lambda s=side: s() for name, side in sides.items()}, options.rounds)
    print(told(options, source, split, spec))
    print("\n".join(table(answers, {name: side.disk_mb for name, side in sides.items()})))
    return 0


class Side:
    """What predicts all sequences, in the batches that suit it."""

    def __init__(self, predict: Predict, batches: Sequence[PackedBatch], disk_bytes: int) -> None:
        self.disk_mb = disk_bytes / 1e6
        self._predict, self._batches = predict, batches

    def __call__(self) -> dict[str, Any]:
        """Residues, seconds, and the predictions in the records' order."""
        time.sleep(REST_S)
        start, found = time.perf_counter(), {}
        for batch in self._batches:
            found.update(zip(batch.index.tolist(), self._predict(batch), strict=True))
        seconds = time.perf_counter() - start
        predictions = np.concatenate([found[i] for i in sorted(found)])
        return {"residues": sum(b.residues for b in self._batches), "seconds": seconds, "predictions": predictions}


def made(spec: TransformerSpec, split: EncodedSplit, folder: Path, threads: int) -> dict[str, Side]:
    """The sides by name; each was called once."""
    packed = batches_of(split, PACKED)
    whole, smaller, static = (folder / f"{name}.onnx" for name in ("whole", "dynamic", "static"))
    exact = model(spec)
    padding = spec.tokenizer.pad or 0
    export_onnx(exact, whole)
    quantize_dynamic(whole, smaller)
    calibration = [split.pack(np.array([number])) for number in range(0, len(split), max(1, len(split) // 16))]
    quantize_static(whole, static, [feed(batch, padding) for batch in calibration])

    def ours(name: str) -> Side:
        found = VARIANTS[name].make(Given(folder, model(spec), calibration, folder, threads))
        return warmed(Side(found.predict, packed, found.disk_bytes))

    def theirs(file: Path) -> Side:
        return best(OrtPredictor(file, exact, threads), split, file.stat().st_size)

    return {
        EXACT: warmed(Side(exact.predictor.predict, packed, state_bytes(exact.predictor))),
        OURS: ours("bf16"),
        "plmft INT8, dynamic": ours("int8_dynamic"),
        "plmft INT8, static": ours("int8_static"),
        "ONNX Runtime fp32": theirs(whole),
        THEIRS: theirs(smaller),
        "ONNX Runtime INT8, static": theirs(static),
    }


def model(spec: TransformerSpec) -> Tuned:
    """With random weights, the same each time, and a head for the three states of secondary structure."""
    torch.manual_seed(0)
    spec = replace(spec, init="random")
    options = {"tuning": Full(), "head": ResidueHead(0.0), "kind": "residue_classification"}
    predictor = build_predictor(spec, Located("random"), outputs=len(CLASSES), **options).eval().requires_grad_(False)
    return Tuned(predictor, Description(spec, task="", classes=CLASSES, unit="", **options))


def encoded(sequences: Sequence[str], spec: TransformerSpec) -> EncodedSplit:
    """As records without labels."""
    records = [Record(str(i), text, np.full(len(text), -100), "test") for i, text in enumerate(sequences)]
    return EncodedSplit(records, spec.tokenizer, "residue_classification")


def batches_of(split: EncodedSplit, tokens: int) -> list[PackedBatch]:
    """Longest first."""
    found = EvaluationBatches(split, tokens)
    return [found[number] for number in range(len(found))]


def best(predict: Callable[[PackedBatch], list[np.ndarray]], split: EncodedSplit, disk_bytes: int) -> Side:
    """With the number of tokens a batch that is the fastest of several on every fourth sequence."""
    part = batches_of(split, int(split.lengths.sum()))[0].index.numpy()[::4]
    seconds = {}
    for tokens in BUDGETS:
        trial = Side(predict, [split.pack(part[piece]) for piece in cut(split.lengths[part], tokens)], disk_bytes)
        seconds[tokens] = min(trial()["seconds"] for _ in range(2))
    return warmed(Side(predict, batches_of(split, min(seconds, key=seconds.get)), disk_bytes))


def warmed(side: Side) -> Side:
    """Called once: threads are started, memory is there."""
    side()
    return side


def told(options: argparse.Namespace, source: str, split: EncodedSplit, spec: TransformerSpec) -> str:
    """What was measured, for above the table."""
    import onnxruntime

    residues = int(split.lengths.sum()) - 2 * len(split)
    return (
        f"{spec.name} with random weights; {len(split)} sequences of {source}, {residues:,} residues, longest "
        f"{int(split.lengths.max()) - 2}; {options.threads} threads, load {os.getloadavg()[0]:.1f}; {options.rounds} "
        f"rounds; PyTorch {torch.__version__}, attention: {implementation('cpu', 'bf16')}; ONNX Runtime "
        f"{onnxruntime.__version__}.\n"
    )


def table(answers: dict[str, list[dict[str, Any]]], disk_mb: dict[str, float]) -> list[str]:
    """A line for each side, and the sentence that the comparison is about."""
    exact = answers[EXACT][0]["predictions"]
    lines = ["| side | residues/s | of plmft's bf16 | file MB | same class as fp32 | largest difference |"]
    lines.append("|---|---|---|---|---|---|")
    for name, found in answers.items():
        rates = [rate(answer) for answer in found]
        shares = faster(answers, name, OURS)
        predictions = found[0]["predictions"]
        same = float((predictions.argmax(1) == exact.argmax(1)).mean())
        cells = [
            name,
            f"{statistics.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})",
            f"{statistics.median(shares):.2f}× ({min(shares):.2f}–{max(shares):.2f})",
            f"{disk_mb[name]:.1f}",
            "–" if name == EXACT else f"{same:.2%}",
            "–" if name == EXACT else f"{np.abs(predictions - exact).max():.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    values = faster(answers, OURS, THEIRS)
    ratio = f"{statistics.median(values):.2f}× ({min(values):.2f}–{max(values):.2f})"
    return [*lines, "", f"plmft's bf16 path does {ratio} as many residues a second as ONNX Runtime's INT8."]


if __name__ == "__main__":
    sys.exit(main())
