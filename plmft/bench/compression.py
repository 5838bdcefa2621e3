"""What a tuned model loses and gains when it is made smaller: file, latency, throughput, memory, and the task's metric.

    python -m plmft.benchmark protocol=compression protocol.run=RUN_ID

Each variant runs in a process of its own, on the test set of the run. The difference of the metric is to the same model
in float32, with a paired bootstrap interval over the test's sequences. Calibration and the choice of heads and layers
see validation records (of training where there are none), never the test set. Nothing is trained again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, MinLen

from plmft import InputError
from plmft.bench.protocol import Bench, Row

if TYPE_CHECKING:
    from plmft.data.records import DataSet, Record

REFERENCE = "fp32"
ALL = (
    *(REFERENCE, "bf16", "fp16", "int8_dynamic", "int8_static", "int4", "nf4", "prune_50", "prune_2_4", "heads_75"),
    *("layers_75", "ort_fp32", "ort_int8", "ort_int8_static"),
)
NO_RUN = "protocol.run is not given. Name a tuned model: protocol.run=RUN_ID, or a folder."
PASSED_ON = ("length", "tokens_per_batch", "passes", "blocks", "block_s", "least_calls", "warmup_s")
CELL = "plmft.bench.compress_cell.measure_variant"


@dataclass(frozen=True)
class Compression:
    """Options of the protocol.

    Args:
        run: the tuned model: a run's id, its beginning or name, a folder, models:/NAME/VERSION.
        variants: names of `plmft.bench.compress_variants`, or the full name of a function that takes a Predictor and
            returns it. fp32 is measured in any case: the others are held against it.
        split: a test split of the task.
        records: of the split, the first in the run's order; null: all.
        calibration: records that scales, heads and layers are chosen by.
        length: residues of the sequence whose latency is measured, by itself.
        tokens_per_batch: of the passes over the test set. passes: over it; the fastest is told.
        blocks, block_s, least_calls, warmup_s: how long latency is measured.
    """

    run: str | None = None
    variants: Annotated[tuple[str, ...], MinLen(1)] = ALL
    split: str = "test"
    records: Annotated[int, Gt(1)] | None = None
    calibration: Annotated[int, Gt(0)] = 64
    length: Annotated[int, Gt(0)] = 256
    tokens_per_batch: Annotated[int, Gt(0)] = 4096
    passes: Annotated[int, Gt(0)] = 2
    blocks: Annotated[int, Gt(0)] = 4
    block_s: Annotated[float, Gt(0)] = 0.25
    least_calls: Annotated[int, Gt(0)] = 20
    warmup_s: Annotated[float, Ge(0)] = 2.0

    shows: ClassVar[tuple[str, ...]] = (
        *("disk_mb", "latency_ms_p50", "latency_ratio", "residues_per_s", "throughput_ratio", "peak_host_memory_gb"),
        *("peak_memory_gb", "score", "score_delta", "score_delta_ci_low", "score_delta_ci_high"),
    )

    def fixes(self) -> dict[str, object]:
        """What is held fixed besides the options, and what each variant is.

        Raises: InputError: protocol.run is not given, or there is no such variant.
        """
        if self.run in (None, ""):
            raise InputError(NO_RUN)
        from plmft.bench.compress_variants import variant

        return {f"variant.{name}": variant(name).method for name in self.variants} | {
            "reference": "the same model in float32, adapters merged",
            "compressed": "linear layers of the backbone; head, norms and embeddings stay in float32",
            "latency": "batch 1, from token ids to predictions",
            "throughput": "the test set, longest first, without tokenisation",
            "training_after": "none",
            "process": "one for each variant",
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """A row for each variant, fp32 first. Raises: InputError: no such run, variant, split or data."""
        from plmft.bench.apart import apart
        from plmft.bench.compress_material import write_records
        from plmft.bench.compress_run import conditions, find, read
        from plmft.bench.compress_score import Scores
        from plmft.bench.compress_variants import variant

        ways = {name: variant(name) for name in dict.fromkeys((REFERENCE, *self.variants))}
        evaluated = find(self.run, bench.parts["tracking"], bench.runs)
        task, dataset = read(evaluated, bench, self.split)
        test, calibration = list(dataset.splits[self.split][: self.records]), _calibration(dataset, self.calibration)
        folder = bench.folder / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        material = folder / "records.json"
        write_records(material, task.kind, test, calibration)
        asked = {"model": str(evaluated.folder), "material": str(material), "windowed": bool(dataset.windowed)}
        asked |= {name: getattr(self, name) for name in PASSED_ON}
        cells = [{"name": name, "asked": asked, "predictions": str(folder / f"{name}.npz")} for name in ways]
        scores = Scores(task, test, bench.seed)
        before = conditions(bench, evaluated, task, dataset, self.split, test) | {"latency_length": self.length}
        try:
            for cell, measured in apart(bench, CELL, cells, fresh=True):
                name = cell["name"]
                about = {"variant": name, "precision": ways[name].precision}
                yield before | about | scores.row(measured, Path(cell["predictions"]))
                if scores.reference is None:
                    raise InputError(f"protocol.run={self.run}: in float32 it {measured.get('note', 'gave nothing')}")
        finally:
            material.unlink(missing_ok=True)

    def adapted(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config with the model that the run tuned, so that the benchmark's own run is told to be of it.

        Raises: InputError: as fixes, and there is no such model.
        """
        self.fixes()
        from plmft.bench.compress_run import find, model_config
        from plmft.config.compose import parts_of
        from plmft.tracking.options import runs_dir

        tracking = parts_of({"tracking": config["tracking"]})["tracking"]
        return config | {"model": model_config(find(self.run, tracking, runs_dir()))}


def _calibration(dataset: "DataSet", count: int) -> "list[Record]":
    """Of validation, else of training; none where the task has neither: what needs some says so."""
    records = dataset.splits.get("valid") or dataset.splits.get("train") or ()
    return list(records[:count])
