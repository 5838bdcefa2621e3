"""A tuned model as one .pt2 file of torch.export, which torch loads without plmft or transformers.

The same graph over rectangles as ONNX (`plmft.exporting.rectangle`): batch and length are free, float32. The extra file
`plmft.json` inside says all that is needed to use it: ids of letters, special tokens, classes, unit.
"""

import json
import os
import tempfile
import warnings
from pathlib import Path

import torch

from plmft import InputError
from plmft.exporting.onnx import about, as_rectangle
from plmft.exporting.rectangle import Rectangle
from plmft.models.tuned import Tuned

ABOUT = "plmft.json"
EXAMPLE_LENGTHS = (24, 17)


def export_torch(tuned: Tuned, file: Path) -> None:
    """Write the program, whole or not at all. Inputs: `input_ids` and `attention_mask`, (batch, length) int64.

    Output: see Rectangle.forward. Adapters must be merged (`load(..., merge=True)`). A program about pairs takes a
    single pair by `.module(check_guards=False)` alone: the exporter forbids what it can't prove.

    Raises: InputError: the model has no such form, or the file can't be written.
    """
    program = _program(tuned)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
            part = Path(folder) / file.name
            torch.export.save(program, part, extra_files={ABOUT: json.dumps(about(tuned))})
            os.replace(part, file)
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror or error}.") from None


def _program(tuned: Tuned) -> torch.export.ExportedProgram:
    tokenizer = tuned.description.spec.tokenizer
    least = max(getattr(tuned.description.head, "positions", None) or (0,))
    lengths = [max(length, least) for length in EXAMPLE_LENGTHS]
    ids, mask = as_rectangle([tokenizer.encode("A" * n) for n in (*lengths, *lengths)], tokenizer.pad or 0)
    if tuned.description.kind == "pair_classification":
        batch = 2 * torch.export.Dim("pairs", min=1)
    else:
        batch = torch.export.Dim("batch", min=1)
    shape = {0: batch, 1: torch.export.Dim("length", min=1)}
    rectangle = Rectangle(tuned).cpu().requires_grad_(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its own parts
        program = torch.export.export(rectangle, (ids, mask), dynamic_shapes=(shape, shape), strict=False)
    _without_traces(program)
    return program


def _without_traces(program: torch.export.ExportedProgram) -> None:
    """Of what is noted at each node, paths of this machine's code are dropped."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
