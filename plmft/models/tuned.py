"""A tuned model on disk: head, adapter or backbone, and all that is needed to build it again.

    plmft.json                   what was chosen, and where the base weights come from
    head.safetensors             the head, and the scale of the targets
    confidence.json              interval width or temperature, from the validation split, if it was large enough
    adapter/                     LoRA in PEFT's own layout; opens with PeftModel.from_pretrained
    backbone/                    config and weights as transformers reads them; absent where the base is a pinned
                                 hub revision that tuning left as it was

Loading gives the same predictions to the last bit, in the precision of the run. With `merge` the adapters are added to
the weights beside them: the same to about 1e-5, and as fast as a model without adapters.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import plmft.models.head_spec as heads
import plmft.models.spec as specs
import plmft.models.tuning as tunings
from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import IGNORE, Record
from plmft.data.sampler import EvaluationBatches
from plmft.metrics.confidence import LEAST_RECORDS, Confidence
from plmft.models.adapters import load_adapter, merge_adapters, save_adapter
from plmft.models.backbone import TransformerBackbone
from plmft.models.build import build_predictor
from plmft.models.decisions import decided, likeliest_contacts, named
from plmft.models.given_sequences import check_sequence
from plmft.models.head_spec import Head
from plmft.models.precision import autocast, hold_frozen_in_bf16
from plmft.models.predictor import Predictor
from plmft.models.spec import Spec
from plmft.models.tensors import AGAIN, read_tensors_of_model, write_tensors
from plmft.models.tuning import LoRA, Tuning
from plmft.models.weights import Located, locate, save_network
from plmft.models.windows import Windows

LAYOUT = 1
PARTS = {"model": specs, "tuning": tunings, "head": heads}  # of plmft.json, and where their classes are


@dataclass(frozen=True)
class Description:
    """What was chosen for a run, as far as a prediction depends on it."""

    spec: Spec
    tuning: Tuning
    head: Head
    task: str
    kind: str
    classes: tuple[str, ...]
    unit: str
    windows: bool = False  # sequences beyond the model's context are read in windows
    precision: str = "fp32"  # of the run; predictions are made in it

    def unmeasured(self, name: str, sequence: str, partner: str = "") -> Record:
        """A record with a target of the right form that says nothing."""
        targets = {
            "sequence_regression": 0.0,
            "sequence_multilabel": np.zeros(len(self.classes), np.int8),
            "residue_classification": np.full(len(sequence), IGNORE),
            "contacts": np.full((len(sequence), 3), np.nan, np.float32),
        }
        return Record(name, sequence, targets.get(self.kind, IGNORE), "test", partner=partner)


@dataclass(frozen=True)
class Tuned:
    """A tuned model that predicts."""

    predictor: Predictor
    description: Description
    confidence: Confidence | None = None  # what the validation split said of its errors

    def predict(
        self, sequences: Sequence[str], partners: Sequence[str] | None = None, tokens_per_batch: int = 4096
    ) -> list[float] | list[str]:
        """For each sequence (with its partner, where the task is about pairs) a number in the task's unit, the name of
        a class, names of labels joined by `;`, a string of one-letter classes, or the L likeliest contacts.

        Raises: InputError: a letter that is no amino acid, an empty sequence, one longer than the model's context;
            partners that are missing or not wanted.
        """
        found = self._predicted(sequences, partners, tokens_per_batch)
        kind, classes = self.description.kind, self.description.classes
        if kind == "sequence_regression":
            return [float(value) for value in found]
        if kind == "contacts":
            return [likeliest_contacts(probabilities) for probabilities in found]
        return [named(kind, classes, decided(kind, probabilities)) for probabilities in found]

    def intervals(self, sequences: Sequence[str], tokens_per_batch: int = 4096) -> list[tuple[float, float, float]]:
        """(predicted, low, high) for each sequence, in the task's unit: the conformal 90 % interval.

        Raises: InputError: the task is no regression, its validation split was too small, and as predict.
        """
        if self.description.kind != "sequence_regression" or self.confidence is None:
            raise InputError(self._without("intervals, which need a regression"))
        found = self._predicted(sequences, None, tokens_per_batch)
        return [(float(value), *self.confidence.apply(value)) for value in found]

    def calibrated(
        self, sequences: Sequence[str], partners: Sequence[str] | None = None, tokens_per_batch: int = 4096
    ) -> list[np.ndarray]:
        """(C,) or (L, C) probabilities for each sequence, with the temperature fitted to the validation split. Columns
        are in the order of `description.classes`.

        Raises: InputError: the task has no classes, its validation split was too small, and as predict.
        """
        if self.confidence is None or self.confidence.temperature is None:
            raise InputError(self._without("calibrated probabilities, which need classes"))
        found = self._predicted(sequences, partners, tokens_per_batch)
        return [self.confidence.apply(probabilities) for probabilities in found]

    def _without(self, what: str) -> str:
        return f"The model of {self.description.task} has no {what} and {LEAST_RECORDS} labelled validation records."

    def _predicted(
        self, sequences: Sequence[str], partners: Sequence[str] | None, tokens_per_batch: int
    ) -> list[np.ndarray]:
        kind = self.description.kind
        if (kind == "pair_classification") != (partners is not None):
            wanted = "needs a partner for each sequence: a second list" if partners is None else "takes no partners"
            raise InputError(f"The model was tuned on {self.description.task}, which {wanted}.")
        if isinstance(sequences, str) or (partners is not None and len(partners) != len(sequences)):
            raise InputError("Give a list of sequences, and for pairs a list of partners that is as long.")
        pairs = zip(sequences, partners or [""] * len(sequences), strict=True)
        records = [self.record(i, sequence, partner) for i, (sequence, partner) in enumerate(pairs)]
        return self.predict_records(records, tokens_per_batch)

    def predict_records(self, records: Sequence[Record], tokens_per_batch: int) -> list[np.ndarray]:
        """Predictions in the records' order, in float32, longest sequences first."""
        if not records:
            return []
        split = EncodedSplit(records, self.description.spec.tokenizer, self.predictor.kind)
        device = self.predictor.target_mean.device
        self.predictor.eval()
        found: dict[int, np.ndarray] = {}
        batches = EvaluationBatches(split, tokens_per_batch)
        with autocast(self.description.precision, device.type):
            for batch in (batches[i].to(device) for i in range(len(batches))):
                found.update(zip(batch.index.tolist(), self.predictor.predict(batch), strict=True))
        return [found[i] for i in range(len(records))]

    def record(self, number: int, sequence: str, partner: str = "") -> Record:
        """What predict makes of a sequence. Raises: InputError: one that the model can't take."""
        context, pair = self.description.spec.context, self.description.kind == "pair_classification"
        for text in (sequence, partner) if pair else (sequence,):
            check_sequence(number, text, None if self.description.windows else context)
            last = max(getattr(self.description.head, "positions", None) or (0,))
            if len(text) < last:
                raise InputError(
                    f"Sequence {number} has {len(text)} residues; the model's head looks at residue {last}."
                )
        return self.description.unmeasured(str(number), sequence, partner)


def save(
    predictor: Predictor,
    description: Description,
    located: Located,
    folder: Path,
    confidence: Confidence | None = None,
) -> None:
    """Write a tuned model into `folder`, which is created."""
    folder.mkdir(parents=True)
    head = {f"head.{k}": v for k, v in predictor.head.state_dict().items()}
    scale = {"target_mean": predictor.target_mean, "target_deviation": predictor.target_deviation}
    write_tensors({**head, **scale}, folder / "head.safetensors")
    if isinstance(description.tuning, LoRA):
        save_adapter(predictor.backbone.network, folder / "adapter")
    unchanged = located.source == "hub" and description.tuning.keeps_base
    if not unchanged:
        _save_backbone(predictor.backbone, folder / "backbone")
    text = {
        "layout": LAYOUT,
        "model": _as_json(description.spec),
        "tuning": _as_json(description.tuning),
        "head": _as_json(description.head),
        "task": {k: getattr(description, k) for k in ("task", "kind", "classes", "unit", "windows")},
        "base": {"source": located.source, "revision": located.revision, "included": not unchanged},
        "precision": description.precision,
        "tokenizer_digest": description.spec.tokenizer.digest,
    }
    (folder / "plmft.json").write_text(json.dumps(text, indent=2) + "\n")
    if confidence is not None:
        (folder / "confidence.json").write_text(json.dumps(confidence.to_dict(), indent=2) + "\n")


def load(folder: Path | str, device: str = "cpu", *, merge: bool = False) -> Tuned:
    """Build a saved model again.

    Args:
        merge: add adapters to the weights beside them: faster, and no longer the same to the last bit. Where those
            weights are held in four or 16 bits, the sum is in 32. Nothing happens to a model without adapters.
    Raises: InputError: the folder holds no tuned model, one of another layout, or a file of it is missing or damaged;
        the base can't be had.
    """
    folder = Path(folder)
    description, base = _read(folder / "plmft.json")
    spec, tuning = description.spec, description.tuning
    predictor = build_predictor(
        spec,
        _base(spec, base, folder),
        tuning=tunings.Full(),
        head=description.head,
        kind=description.kind,
        outputs=len(description.classes) or 1,
    )
    if spec.from_scratch:
        _load_strictly(predictor.backbone, folder / "backbone" / "model.safetensors")
    tuning.apply(predictor.backbone)
    if isinstance(tuning, LoRA):
        load_adapter(predictor.backbone.network, folder / "adapter")
    _load_strictly(predictor, folder / "head.safetensors", elsewhere=("backbone.",))
    if description.windows:
        predictor.windows = Windows.of(spec.context, spec.tokenizer)
    if merge and isinstance(tuning, LoRA):
        merge_adapters(predictor.backbone.network)
    elif description.precision == "bf16_weights":
        hold_frozen_in_bf16(predictor.backbone)
    return Tuned(predictor.eval().to(device), description, _confidence(folder / "confidence.json"))


def _read(file: Path) -> tuple[Description, dict[str, Any]]:
    """What was chosen, and where the base weights come from."""
    if not file.is_file():
        raise InputError(
            f"{file.parent} holds no tuned model (no plmft.json). Name a run's folder `model`, not its id: "
            "mlruns/work/RUN/model."
        )
    try:
        text = json.loads(file.read_text())
        if text["layout"] != LAYOUT:
            raise InputError(f"{file}: layout {text['layout']} is not {LAYOUT}, which this version of plmft reads.")
        parts = (_from_json(kind, text[key]) for key, kind in PARTS.items())
        task = {**text["task"], "classes": tuple(text["task"]["classes"])}
        found = Description(*parts, **task, precision=text.get("precision", "fp32"))
        return found, {key: text["base"][key] for key in ("included", "revision")}
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} can't be read ({error!r:.200}). {AGAIN}") from None


def _confidence(file: Path) -> Confidence | None:
    try:
        return Confidence.from_dict(json.loads(file.read_text())) if file.is_file() else None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} can't be read ({error}). Get the model's folder again, or remove the file.") from None


def _base(spec: Spec, base: dict[str, Any], folder: Path) -> Located:
    if spec.from_scratch:
        return Located("random")
    if base["included"]:
        return Located("folder", folder / "backbone")
    return locate(dataclasses.replace(spec, init="pretrained", path=None, checkpoint=None, revision=base["revision"]))


def _load_strictly(module: nn.Module, file: Path, *, elsewhere: tuple[str, ...] = ()) -> None:
    """Fill all weights of the module, but for those whose names begin so."""
    state, own = read_tensors_of_model(file), module.state_dict()
    missing = [name for name in own if name not in state and not name.startswith(elsewhere)]
    other = [name for name, tensor in state.items() if name not in own or tensor.shape != own[name].shape]
    if missing or other:
        raise InputError(
            f"{file}: weights do not fit. Missing: {missing}. Unexpected, or of other shape: {other}. {AGAIN}"
        )
    module.load_state_dict(state, strict=False)


def _save_backbone(backbone: nn.Module, folder: Path) -> None:
    if isinstance(backbone, TransformerBackbone):
        save_network(backbone.network, folder)
    else:
        folder.mkdir()
        write_tensors(backbone.state_dict(), folder / "model.safetensors")


def _as_json(part: Spec | Tuning | Head) -> dict[str, Any]:
    return {"type": type(part).__name__, **dataclasses.asdict(part)}


def _from_json(module: Any, text: dict[str, Any]) -> Any:
    """A dataclass of `module` by its name; nothing else can be named."""
    kind = getattr(module, text["type"], None)
    if not (dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__):
        raise InputError(f"plmft.json names an unknown part {text['type']!r}.")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in text.items() if k != "type"})
