"""Write a tuned model in a form that others read without plmft.

    python -m plmft.export model=RUN_ID to=FOLDER as=huggingface
    python -m plmft.export model=RUN_ID to=FOLDER as=adapter
    python -m plmft.export model=RUN_ID to=FOLDER as=onnx
    python -m plmft.export model=RUN_ID to=FOLDER as=torch_export

model= takes a run's id, as much of its beginning as is its alone, its name, a folder, or models:/NAME/VERSION. The
folder appears whole or not at all; one that holds files is left alone. huggingface: transformers' from_pretrained, with
the adapters added to the weights. adapter: PEFT's from_pretrained, for LoRA and DoRA. onnx: ONNX Runtime. torch_export:
torch.export.load. Each folder has a README.md with the way to use it; the first two a predict.py that needs no plmft.
Options: tracking.uri=ADDRESS, another MLflow store. docs/exporting.md tells what is equal to what.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plmft import InputError

if TYPE_CHECKING:
    from plmft.tracking.model_of_run import Found

FORMS = ("huggingface", "adapter", "onnx", "torch_export")
KEYS = ("model", "to", "as", "tracking.uri")


def main() -> None:
    """The command."""
    from plmft.training.interrupts import end_at_once, terminate_as_interrupt

    end_at_once()
    from plmft.ending import ending

    with ending("nothing was written."):
        terminate_as_interrupt()
        export(sys.argv[1:])


def export(arguments: Sequence[str]) -> None:
    """Write the folder, and say what is in it. Raises: InputError: a user's mistake; no room on the disk."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return
    given = _parsed(arguments)
    from plmft.data.whole_file import check_free, whole_folder
    from plmft.tracking.model_of_run import find_model
    from plmft.tracking.options import runs_dir
    from plmft.tracking.reading import read_address
    from plmft.training.interrupts import nothing_open

    to = Path(given["to"]).expanduser()
    check_free("to", given["to"])
    if given["as"] == "onnx":
        _check_onnx()
    with nothing_open():
        import plmft.models.tuned  # noqa: F401 - torch, transformers
    found = find_model(given["model"], read_address(given.get("tracking.uri"), runs_dir()), runs_dir())
    try:
        with whole_folder(to) as part:
            _write(found, given["as"], part)
    except OSError as error:
        raise InputError(f"to={to}: can't be written ({error.strerror or error}). Choose another folder.") from error
    for file in sorted(to.rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:14,} bytes  {to / file.relative_to(to)}")


def _parsed(arguments: Sequence[str]) -> dict[str, str]:
    """Values as they were typed: the beginning of a run's id may look like a number."""
    from plmft.config.check import closest, nearest
    from plmft.config.words import other_word

    given: dict[str, str] = {}
    for word in arguments:
        key, sign, value = word.partition("=")
        if not sign or key not in KEYS:
            raise InputError(f"{word}: there is no such option.{other_word(word, KEYS) or nearest(key, KEYS)}")
        given[key] = value
    for key in ("model", "to", "as"):
        if not given.get(key):
            raise InputError(f"{key}= is missing. python -m plmft.export model=RUN_ID to=FOLDER as={'|'.join(FORMS)}")
    if given["as"] not in FORMS:
        raise InputError(
            f"as={given['as']}: there is no such form.{closest(given['as'], FORMS)} It takes: {', '.join(FORMS)}."
        )
    return given


def _check_onnx() -> None:
    from plmft.exporting.onnx import require

    require("onnx", "onnxscript")


def _write(found: Found, form: str, folder: Path) -> None:
    from plmft.exporting.card import write_card
    from plmft.models.tuned import load

    tuned = load(found.folder, merge=form != "adapter")
    if form == "huggingface":
        from plmft.exporting.hf import export_huggingface

        export_huggingface(tuned, folder)
    elif form == "adapter":
        from plmft.exporting.hf import export_adapter

        export_adapter(tuned, found.folder, folder)
    elif form == "onnx":
        from plmft.exporting.onnx import export_onnx

        export_onnx(tuned, folder / "model.onnx")
    else:
        from plmft.exporting.torch_export import export_torch

        export_torch(tuned, folder / "model.pt2")
    write_card(tuned, form, found.folder, found.run_id, folder)


if __name__ == "__main__":
    main()
