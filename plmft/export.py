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

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plmft import InputError

if TYPE_CHECKING:
    from plmft.tracking.model_of_run import Found

FORMS = ("huggingface", "adapter", "onnx", "torch_export")
KEYS = ("model", "to", "as", "tracking.uri")


def main() -> None:
    """The command."""
    from plmft.tracking.lineage import mask

    try:
        export(sys.argv[1:])
    except InputError as error:
        print(f"plmft: {mask(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def export(arguments: Sequence[str]) -> None:
    """Write the folder, and say what is in it. Raises: InputError: a user's mistake; no room on the disk."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return
    given = _parsed(arguments)
    from plmft.tracking.model_of_run import find_model
    from plmft.tracking.options import runs_dir
    from plmft.tracking.reading import read_address

    to = Path(given["to"]).expanduser()
    _check_free(to)
    if given["as"] == "onnx":
        _check_onnx()
    found = find_model(given["model"], read_address(given.get("tracking.uri"), runs_dir()), runs_dir())
    try:
        with _whole(to) as part:
            _write(found, given["as"], part)
    except OSError as error:
        raise InputError(f"to={to}: can't be written ({error.strerror or error}). Choose another folder.") from error
    for file in sorted(to.rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:14,} bytes  {to / file.relative_to(to)}")


def _parsed(arguments: Sequence[str]) -> dict[str, str]:
    """Values as they were typed: the beginning of a run's id may look like a number."""
    from plmft.config.check import closest, nearest

    given: dict[str, str] = {}
    for word in arguments:
        key, sign, value = word.partition("=")
        if not sign or key not in KEYS:
            raise InputError(f"{word}: there is no such option.{nearest(key, KEYS)}")
        given[key] = value
    for key in ("model", "to", "as"):
        if not given.get(key):
            raise InputError(f"{key}= is missing. python -m plmft.export model=RUN_ID to=FOLDER as={'|'.join(FORMS)}")
    if given["as"] not in FORMS:
        raise InputError(
            f"as={given['as']}: there is no such form.{closest(given['as'], FORMS)} It takes: {', '.join(FORMS)}."
        )
    return given


def _check_free(to: Path) -> None:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"to={to}: is there and not empty. Choose another folder, or remove it.")


def _check_onnx() -> None:
    from plmft.exporting.onnx import require

    require("onnx", "onnxscript")


@contextmanager
def _whole(to: Path) -> Iterator[Path]:
    """Where to write a folder that is there at once or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        yield part
        os.replace(part, to)  # an empty folder is replaced
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
