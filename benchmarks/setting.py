"""What every row needs: how much is run, where, by which processes; and the overrides that both sides share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.material import Material, Row, brightness, model_config, small, structures, typical, write
from benchmarks.workers import Workers

BATCH_SIZE = 8
WARMUP = 1
TOKENS = 4096
LR = 1e-4
# every projection of attention and feed-forward, as plmft's default; PEFT takes a regular expression over whole names
PROJECTIONS = r".*\.attention\.(self\.(query|key|value)|output\.dense)|.*\.layer\.\d+\.(intermediate|output)\.dense"
TRAINING_ARGUMENTS = {  # all else is Trainer's default
    "per_device_train_batch_size": BATCH_SIZE,
    "num_train_epochs": 1,
    "weight_decay": 0.01,
    "bf16": True,
    "train_sampling_strategy": "sequential",  # what it is given is in its order already
    "save_strategy": "no",
    "report_to": "none",
}
LORA = {"rank": 16, "alpha": 32}


@dataclass(frozen=True)
class Amount:
    """Steps that are timed after the warm-up, and rounds of all sides."""

    steps: int
    rounds: int


NAMES = {"esm2_tiny": "tiny", "esm2_8m": "8M", "esm2_35m": "35M", "esm2_650m": "650M"}
AMOUNTS = {  # quiet, on two cores, all rows together take about 25 minutes
    "esm2_8m": Amount(8, 3),
    "esm2_35m": Amount(3, 2),
    "esm2_650m": Amount(20, 3),
    "esm2_tiny": Amount(2, 1),
}


@dataclass(frozen=True)
class Setting:
    """One measurement's own choices.

    Args:
        folder: for material, logs and runs. peers: their Python; None: they are missing.
        quick: a smoke test on a tiny model, whose figures mean nothing.
        device: cpu, or cuda for the 650M model on a GPU.
    """

    folder: Path
    peers: Path | None
    threads: int
    quick: bool = False
    device: str = "cpu"

    @property
    def models(self) -> tuple[str, ...]:
        """The models that ratios are shown for."""
        if self.quick:
            return ("esm2_tiny",)
        return ("esm2_650m",) if self.device == "cuda" else ("esm2_8m", "esm2_35m")

    def amount(self, model: str) -> Amount:
        """How much is run for a model."""
        return Amount(2, 1) if self.quick else AMOUNTS[model]

    def workers(self, row: str) -> Workers:
        """New processes for one row and model, so that none inherits another's memory."""
        folder = self.folder / row
        folder.mkdir(parents=True, exist_ok=True)
        return Workers(self.peers, threads=self.threads, folder=folder)

    @cached_property
    def structures(self) -> tuple[list[Row], str]:
        """SS3 rows and what they are."""
        return structures()

    @cached_property
    def brightness(self) -> tuple[list[Row], str]:
        """Fluorescence rows and what they are."""
        return brightness()

    def structure_steps(self, name: str, steps: int, batch_size: int = BATCH_SIZE) -> Material:
        """SS3 sequences for some optimizer steps, as long and uneven as the whole split."""
        few = small(self.structures[0], 8)
        ids = {row.id for row in few}
        rows = [row for row in self.structures[0] if row.id not in ids]
        splits = {"train": typical(rows, steps, batch_size, 0), "valid": few[:4], "test": few[4:]}
        return write(self.folder / "material", name, "residue", splits)

    def brightness_steps(self, name: str, steps: int) -> Material:
        """Fluorescence sequences for some optimizer steps."""
        rows, count = self.brightness[0], steps * BATCH_SIZE
        splits = {"train": rows[:count], "valid": rows[count : count + 4], "test": rows[count + 4 : count + 8]}
        return write(self.folder / "material", name, "sequence", splits)

    def checkpoint(self, model: str, workers: Workers) -> Path:
        """Random weights of a model, drawn by transformers with seed 0 and written once for all sides."""
        folder = self.folder / "weights" / model
        if not (folder / "complete").is_file():
            workers["peers"].ask("checkpoint", folder=str(folder), config=model_config(model), seed=0)
            (folder / "complete").touch()
        return folder

    def overrides(
        self,
        model: str,
        weights: Path,
        material: Material,
        *,
        tuning: str,
        seed: int = 0,
        lr: float = LR,
        more: Sequence[str] = (),
    ) -> list[str]:
        """plmft's command line for what Trainer does by its own defaults: AdamW, linear decay, clipping at 1."""
        kind = "residue_classes" if material.kind == "residue" else "regression"
        hardware = "gpu" if self.device == "cuda" else "cpu"
        words = [f"model={model}", f"model.path='{weights}'", "model.init=pretrained", f"tuning={tuning}"]
        words += ["task=table", f"task.file='{material.table}'", f"task.kind={kind}", f"batch_size={BATCH_SIZE}"]
        words += [f"optim.lr={lr}", "optim.epochs=1", "optim.decay=linear", "optim.warmup_fraction=0"]
        words += [f"hardware={hardware}", "hardware.precision=bf16", f"seed={seed}"]
        if tuning == "lora":
            words += [f"tuning.rank={LORA['rank']}", f"tuning.alpha={LORA['alpha']}"]
        return [*words, *more]

    def trainer(
        self, weights: Path, material: Material, *, lora: bool, seed: int = 0, lr: float = LR, warmup: int = WARMUP
    ) -> dict[str, object]:
        """The same for the peers' job `train`, without the batches."""
        return {
            "checkpoint": str(weights),
            "material": str(material.lines),
            "kind": material.kind,
            "lora": {**LORA, "target_modules": PROJECTIONS} if lora else None,
            "arguments": {**TRAINING_ARGUMENTS, "learning_rate": lr, "seed": seed, "use_cpu": self.device == "cpu"},
            "warmup": warmup,
        }
