"""What a protocol of `python -m plmft.benchmark` is given, and what it gives back: rows of conditions and figures.

A protocol is a frozen dataclass in a file of its own, made from conf/protocol/<name>.yaml by its `_target_`; nothing
registers it. A row tells its conditions first (integers, texts), then what was measured (floats, units in the name).
What could not be measured is missing from the row, and its `note` says why.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plmft.models.spec import Spec
from plmft.training.hardware import Device

if TYPE_CHECKING:
    from plmft.models.build import Backbone

Row = dict[str, object]


@dataclass(frozen=True)
class Bench:
    """What a protocol is given.

    Args:
        parts: by key, what the config asks for (`task`, `tuning`, `optim`, ...): made, not plain.
        config: the same, plain, for processes of their own (`plmft.bench.apart`).
        device: as hardware came to; its precision is the one that hardware.precision names.
        runs: the runs folder. folder: of this run, for files.
        usd_per_hour: price of the machine; None: no money is told.
        weights: "random (seed 0)", "published <revision>" or "<path> <digest>": the same in every row.
    """

    parts: dict[str, Any]
    config: dict[str, Any]
    spec: Spec
    device: Device
    runs: Path
    folder: Path
    seed: int
    usd_per_hour: float | None
    weights: str

    @property
    def where(self) -> str:
        """PyTorch's name of the device: cpu or cuda:<index>."""
        return "cpu" if self.device.kind == "cpu" else f"cuda:{self.device.index}"

    def backbone(self, precision: str = "fp32") -> "Backbone":
        """The model on the device, in evaluation mode. Compute with it under `plmft.models.precision.autocast`.

        Args:
            precision: bf16_weights holds the weights of linear layers in bfloat16, where they no longer learn; all
                others hold them in float32.
        Raises: InputError: the weights are not there.
        """
        import torch

        from plmft.models.build import build_backbone
        from plmft.models.precision import hold_frozen_in_bf16
        from plmft.models.weights import locate

        torch.manual_seed(self.seed)
        backbone = build_backbone(self.spec, locate(self.spec)).eval()
        if precision == "bf16_weights":
            hold_frozen_in_bf16(backbone.requires_grad_(False))
        return backbone.to(self.where)

    @cached_property
    def _drawn(self) -> "tuple[list[str], str]":
        from plmft.bench.material import real_sequences

        return real_sequences(self.parts["data"].place(self.runs).folder)

    @property
    def source_of_sequences(self) -> str:
        """What `sequences` draws from, for a row: UniRef90 by its file, or the formula of their lengths."""
        return self._drawn[1]

    def sequences(self, count: int) -> list[str]:
        """Proteins of real lengths, the same for the same seed; none is longer than the model's context.

        Drawn without repeats as long as there are enough; longer ones are cropped.
        """
        from plmft.bench.material import draw

        return draw(self._drawn[0], count, self.seed, self.spec.context)

    def conditions(self, precision: str | None = None, **more: object) -> Row:
        """How a row begins: model, weights, device, threads of a CPU, precision, then `more`.

        Args: precision: of this row; None: the device's.
        """
        row: Row = {"model": self.spec.name, "weights": self.weights, "device": self.device.name or "cpu"}
        if self.device.kind == "cpu":
            import torch

            row["threads"] = torch.get_num_threads()
        return row | {"precision": precision or self.device.precision} | more

    def at(self, precision: str) -> "Bench":
        """The same with the device at another precision. Raises: InputError: the device lacks it."""
        hardware = replace(self.parts["hardware"], precision=precision)
        return replace(self, device=hardware.resolve())


class Measures(Protocol):
    """A protocol.

    Optional class attributes: `uses`, the parts of the config besides model, hardware and seed that change its figures
    (as ("task", "tuning")), which are logged with the run; `shows`, the measured columns that the table on the console
    has, where not all. Optional methods: `check(bench)` raises InputError for what can be told before a run is opened;
    `adapted(config)` gives the config with what the options imply, as the model that a run tuned.
    """

    def fixes(self) -> dict[str, object]:
        """What it holds fixed besides its options, so that two machines' figures compare: the run's parameters."""

    def measure(self, bench: Bench) -> Iterator[Row]:
        """Rows as they come: a run that is killed keeps what it measured.

        Raises: InputError: a user's mistake, before the first row where it can be known.
        """
