"""A tuned model as one ONNX file, which ONNX Runtime reads without plmft or PyTorch.

Batch and length are free. The file's metadata, key `plmft`, says all that is needed to use it: ids of letters, special
tokens, classes, unit. Weights beyond protobuf's 2 GB stand beside the file, as `<file>.data`. Adapters must be merged.
Computed in float32, whatever the run's precision was.
"""

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plmft import InputError
from plmft.exporting.rectangle import OUTPUTS, Rectangle
from plmft.models.tokenizer import Tokenizer
from plmft.models.tuned import Tuned

EXTRA = 'ONNX needs packages that are not installed: {}. Install them with: pip install -e ".[onnx]"'
MOST_BYTES_INSIDE = 1_800_000_000  # protobuf ends at 2 GiB, names and graph included
EXAMPLE_LENGTH = 24
OPSET = 20  # has LayerNormalization and Gelu, and old readers take it
SCOPES = "pkg.torch.onnx.name_scopes"  # at each node: the modules that it is a part of


def export_onnx(tuned: Tuned, file: Path) -> None:
    """Write the model, whole or not at all; it is on the CPU afterwards.

    Inputs are `input_ids` and `attention_mask`, (batch, length) int64; the output is `values`, `probabilities` or
    `contacts`, see Rectangle.forward.

    Raises: InputError: onnx or onnxscript is not installed, the model has no such form, or the file can't be written.
    """
    require("onnx", "onnxscript")
    rectangle = Rectangle(tuned).cpu()
    program = _exported(rectangle, tuned)
    _without_traces(program.model)
    _free_sizes(program.model.graph, tuned.description.kind)
    program.model.metadata_props["plmft"] = json.dumps(about(tuned))
    _write(program, file, sum(weights.numel() * weights.element_size() for weights in rectangle.parameters()))


def require(*packages: str) -> None:
    """Raises: InputError: one of them is not installed."""
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(EXTRA.format(", ".join(lacking)))


def about(tuned: Tuned) -> dict[str, Any]:
    """What stands in the metadata: how sequences become ids, and what the output means."""
    description = tuned.description
    tokenizer = description.spec.tokenizer
    return {
        "model": description.spec.name,
        "task": description.task,
        "kind": description.kind,
        "classes": list(description.classes),
        "unit": description.unit,
        "letters": letters(tokenizer),
        "unknown": tokenizer.unknown,
        "prefix": list(tokenizer.prefix),
        "suffix": list(tokenizer.suffix),
        "pad": tokenizer.pad or 0,
        "longest": description.spec.context,
    }


def letters(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of upper-case letters; other letters are unknown ones."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    ids = tokenizer.encode(alphabet)[len(tokenizer.prefix) :]
    return {letter: int(id_) for letter, id_ in zip(alphabet, ids, strict=False) if id_ != tokenizer.unknown}


def _exported(rectangle: Rectangle, tuned: Tuned) -> Any:
    ids, mask = _example(tuned)
    length = torch.export.Dim("length", min=1)
    if tuned.description.kind == "pair_classification":
        batch = 2 * torch.export.Dim("pairs", min=1)
    else:
        batch = torch.export.Dim("batch", min=1)
    shape = {0: batch, 1: length}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that plmft has no use for
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its own parts
        return torch.onnx.export(
            rectangle,
            (ids, mask),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["input_ids", "attention_mask"],
            output_names=[OUTPUTS.get(tuned.description.kind, "probabilities")],
            dynamic_shapes=(shape, shape),
        )


def _without_traces(model: Any) -> None:
    """Of what the exporter notes at each node, the module's name is kept: the rest are paths of this machine's code."""
    for node in model.graph.all_nodes():
        for note in [name for name in node.metadata_props if name != SCOPES]:
            del node.metadata_props[note]
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()


def _free_sizes(graph: Any, kind: str) -> None:
    """Name the output's sizes that are free, and let readers find those within by themselves.

    After an LSTM the exporter takes the example's length for the only one.
    """
    from onnxscript import ir

    (output,) = graph.outputs
    sizes = list(output.shape)
    sizes[0] = "pairs" if kind == "pair_classification" else "batch"
    for axis in {"residue_classification": (1,), "contacts": (1, 2)}.get(kind, ()):
        sizes[axis] = "length"
    for value in (value for node in graph.all_nodes() for value in node.outputs):
        value.shape = None
    output.shape = ir.Shape(sizes)


def _example(tuned: Tuned) -> tuple[torch.Tensor, torch.Tensor]:
    """Four sequences (two pairs: a size of one would be taken for fixed) of two lengths, long enough for any head."""
    tokenizer = tuned.description.spec.tokenizer
    least = max(getattr(tuned.description.head, "positions", None) or (0,))
    longest = max(EXAMPLE_LENGTH, least + 2)
    return as_rectangle([tokenizer.encode("A" * (longest - i % 2)) for i in range(4)], tokenizer.pad or 0)


def as_rectangle(tokens: Sequence[Any], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, L) ids and mask, int64, of N arrays of ids."""
    longest = max(map(len, tokens))
    ids = torch.full((len(tokens), longest), padding)
    mask = torch.zeros_like(ids)
    for row, found in enumerate(tokens):
        ids[row, : len(found)] = torch.as_tensor(found)
        mask[row, : len(found)] = 1
    return ids, mask


def _write(program: Any, file: Path, weight_bytes: int) -> None:
    outside = weight_bytes > MOST_BYTES_INSIDE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".onnx-") as folder:
            program.save(str(Path(folder) / file.name), external_data=outside)
            written = sorted(Path(folder).iterdir(), key=lambda part: part.name == file.name)  # the graph last
            for part in written:
                os.replace(part, file.parent / part.name)
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror or error}.") from None


def read_about(file: Path) -> Mapping[str, Any]:
    """The metadata of an exported file. Raises: InputError: it has none."""
    require("onnx")
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
    if "plmft" not in found:
        raise InputError(f"{file} was not exported by plmft: its metadata has no key plmft.")
    return json.loads(found["plmft"])
