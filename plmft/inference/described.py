"""What a tuned model's folder says of itself, read without its weights: a job is checked before they are loaded."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmft import InputError
from plmft.inference.sequences import Columns
from plmft.tracking.model_of_run import summary_beside

if TYPE_CHECKING:
    from plmft.training.hardware import Device, Hardware

BF16 = ("bf16", "bf16_weights")
PAIRS, CONTACTS = "pair_classification", "contacts"


@dataclass(frozen=True)
class Described:
    """A tuned model on disk. Args: text: its plmft.json."""

    folder: Path
    text: dict[str, Any]

    @property
    def kind(self) -> str:
        """Of the task."""
        return self.text["task"]["kind"]

    @property
    def has_adapter(self) -> bool:
        """True where there is something to merge."""
        return (self.folder / "adapter").is_dir()

    @property
    def context(self) -> int | None:
        """Residues that it takes at once; None: any number."""
        return self.text["model"].get("context")

    @property
    def precision(self) -> str:
        """Of the run."""
        return self.text.get("precision", "fp32")

    @property
    def weights(self) -> str:
        """Where the base weights come from."""
        if self.text["model"].get("init") == "random":
            return "random"
        base = self.text["base"]
        return f"{base['source']} {base['revision']}" if base.get("revision") else str(base["source"])

    @property
    def is_transformer(self) -> bool:
        """Whether its network is one."""
        return self.text["model"].get("type") == "TransformerSpec"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must know of all its predictions."""
        random = "The model was tuned from random weights: its predictions show that the path works, no more."
        return ((random,) if self.text["model"].get("init") == "random" else ()) + self._coverage_notes

    @property
    def _coverage_notes(self) -> tuple[str, ...]:
        """What share of its run's test records the intervals or sets held; none where that was not measured."""
        found = self._summary.get("metrics", {}).get("test/conformal_coverage_90")
        if found is None or not (self.folder / "confidence.json").is_file():
            return ()
        what = "low and high" if self.kind == "sequence_regression" else "the sets in likely"
        return (
            f"On the run's own test records {what} held {100 * found:.1f} % of what was measured; 90 % is aimed at.",
        )

    @property
    def _summary(self) -> dict[str, Any]:
        return summary_beside(self.folder)

    def origin(self, run_id: str | None) -> dict[str, str]:
        """`run_id`, `run_name` and `task` of the run that left it; without what is not known.

        Args: run_id: from the store; None: taken from the folder.
        """
        try:
            with (self.folder.parent / "tracking" / "journal.jsonl").open() as journal:
                name = json.loads(journal.readline()).get("name")
        except (OSError, ValueError):
            name = None
        found = {"run_id": run_id or self._summary.get("run_id"), "run_name": name, "task": self.text["task"]["task"]}
        return {key: value for key, value in found.items() if value}

    @property
    def digest(self) -> str:
        """SHA-256 over its files, about 1 s for each GB of a backbone that is kept in it."""
        total = hashlib.sha256()
        for file in sorted(f for f in self.folder.rglob("*") if f.is_file()):
            total.update(f"{file.relative_to(self.folder)}\n".encode())
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def columns(self, given: Columns) -> Columns:
        """Those that are read. Raises: InputError: a partner for a model that takes none."""
        if self.kind == PAIRS:
            return dataclasses.replace(given, partner=given.partner or "partner")
        if given.partner is not None:
            raise InputError(
                f"columns.partner={given.partner}: the model of {self.text['task']['task']} takes no pairs."
            )
        return given

    def policy(self, asked: str) -> str:
        """Of sequences beyond the context: auto is as it was tuned. Raises: InputError: contacts in windows."""
        tuned = "window" if self.text["task"].get("windows") else "refuse"
        policy = tuned if asked == "auto" else asked
        if policy == "window" and self.kind == CONTACTS:
            raise InputError("length_policy=window: contacts reach across windows. Set refuse or crop.")
        return policy

    def refusal(self, asked: str) -> Callable[[str], str | None]:
        """Why the model can't take a sequence of known letters; None: it can. Raises: InputError: as policy."""
        context = self.context if self.policy(asked) == "refuse" else None
        last = max(self.text["head"].get("positions") or (0,))

        def refuse(sequence: str) -> str | None:
            if context is not None and len(sequence) > context:
                more = "crop" if self.kind == CONTACTS else "window or crop"
                return f"{len(sequence)} residues; the model takes {context} (length_policy={more} takes more)"
            if len(sequence) < last:
                return f"{len(sequence)} residues; the model's head looks at residue {last}"
            return None

        return refuse


def read_described(folder: Path) -> Described:
    """Raises: InputError: the folder holds no tuned model, or one that can't be read."""
    file = folder / "plmft.json"
    try:
        text = json.loads(file.read_text())
        _ = text["task"]["kind"], text["task"]["task"], text["model"], text["head"], text["base"]["source"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: can't be read ({error!r:.100}). Name the folder `model` of a run.") from None
    return Described(folder, text)


def device_for(hardware: "Hardware", model: Described) -> tuple["Device", tuple[str, ...]]:
    """The device, its precision being the run's where hardware.precision is auto; and notes, if it can't be.

    Raises: InputError: as Hardware.resolve.
    """
    device = hardware.resolve()
    wanted = model.precision if hardware.precision == "auto" else hardware.precision
    slow = device.kind == "cpu" and (wanted == "fp16" or (wanted in BF16 and device.precision == "fp32"))
    if hardware.precision == "auto" and slow:
        return dataclasses.replace(device, precision="fp32"), (f"Computed in fp32: this CPU has no {wanted}.",)
    return dataclasses.replace(hardware, precision=wanted).resolve(), ()
