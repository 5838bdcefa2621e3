"""A tuned model in ONNX Runtime, in float32 and int8: exported, quantised where asked for, and called on rectangles.

Sequences of a batch are padded to its longest one, so a batch should hold sequences of like lengths. Only products with
weights are quantised; attention's own stay in float32. The session takes as many threads as PyTorch has.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.bench.compress_variants import Compressed, Given
from plmft.data.packing import PackedBatch
from plmft.exporting.onnx import SCOPES, export_onnx, require
from plmft.models.tuned import Tuned

PRODUCTS = ["MatMul", "Gemm"]
WEIGHTS_ONLY = {"MatMulConstBOnly": True}


class OrtPredictor:
    """Predicts as Predictor does, by a session on an exported file.

    Raises: InputError: onnxruntime is not installed.
    """

    def __init__(self, file: Path, tuned: Tuned, threads: int) -> None:
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._kind = tuned.description.kind
        self._padding = _padding(tuned)

    def __call__(self, batch: PackedBatch) -> list[np.ndarray]:
        """As Predictor.predict."""
        (found,) = self._session.run(None, feed(batch, self._padding))
        if self._kind == "sequence_regression":
            return list(found.astype(np.float64))
        if self._kind not in ("residue_classification", "contacts"):
            return list(found)
        inside = [part.numpy() for part in batch.is_residue.split(batch.lengths)]
        rows = [row[: len(kept)][kept] for row, kept in zip(found, inside, strict=True)]
        if self._kind == "residue_classification":
            return rows
        return [row[:, : len(kept)][:, kept] for row, kept in zip(rows, inside, strict=True)]


def compressed(given: Given, bits: str) -> Compressed:
    """bits: fp32, dynamic or static. The file is made in another process, whose memory is not this one's.

    Raises: InputError: a package is missing, the model has no such form, or it is on a GPU or read in windows.
    """
    require("onnx", "onnxscript", "onnxruntime")
    if given.tuned.predictor.target_mean.is_cuda:
        raise InputError("measured on CPUs only: the package onnxruntime has no kernels for GPUs")
    if given.tuned.predictor.windows is not None:
        raise InputError("some sequences are beyond the model's context, and an exported model reads no windows")
    padding = _padding(given.tuned)
    for number, batch in enumerate(given.calibration if bits == "static" else ()):
        np.savez(given.folder / f"feed-{number:05d}.npz", **feed(batch, padding))
    command = [sys.executable, "-m", "plmft.bench.compress_ort", str(given.model), str(given.folder), bits]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError((made.stderr.strip().splitlines() or [f"the exporter ended with {made.returncode}"])[-1])
    file = given.folder / f"{bits}.onnx"
    size = sum(part.stat().st_size for part in given.folder.glob(f"{file.name}*"))
    return Compressed(OrtPredictor(file, given.tuned, given.threads), size)


def make(model: Path, folder: Path, bits: str) -> None:
    """Write `<bits>.onnx` into the folder, calibrated by the feeds there."""
    from plmft.models.tuned import load

    whole = folder / "fp32.onnx"
    export_onnx(load(model, merge=True), whole)
    if bits == "dynamic":
        quantize_dynamic(whole, folder / "dynamic.onnx")
    elif bits == "static":
        feeds = [dict(np.load(file)) for file in sorted(folder.glob("feed-*.npz"))]
        quantize_static(whole, folder / "static.onnx", feeds)


def feed(batch: PackedBatch, padding: int) -> dict[str, np.ndarray]:
    """A session's inputs, padded."""
    tokens, mask = batch.padded(padding)
    return {"input_ids": tokens.numpy(), "attention_mask": mask.numpy().astype(np.int64)}


def _padding(tuned: Tuned) -> int:
    return tuned.description.spec.tokenizer.pad or 0


def quantize_dynamic(file: Path, smaller: Path) -> None:
    """int8 weights by output channel; activations are quantised in each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        file,
        smaller,
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_of_head(file),
        extra_options=WEIGHTS_ONLY,
    )


def quantize_static(file: Path, smaller: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    """int8 weights by output channel; activations by the least and highest value that calibration saw."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Feeds(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[dict[str, np.ndarray]] = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    quantize(
        file,
        smaller,
        Feeds(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_of_head(file),
        extra_options=WEIGHTS_ONLY,
    )


def _of_head(file: Path) -> list[str]:
    """Nodes of the head, whose products stay in float32 as in every other variant."""
    import onnx

    graph: Any = onnx.load(file, load_external_data=False).graph
    scopes = {node.name: prop.value for node in graph.node for prop in node.metadata_props if prop.key == SCOPES}
    return [name for name, modules in scopes.items() if "'head'" in modules]


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
