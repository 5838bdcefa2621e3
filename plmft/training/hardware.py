"""Where and how fast a run computes. Nothing here changes the science: `batch_size` means the same everywhere."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from plmft import InputError
from plmft.training.slurm_options import Slurm

GPU_PRECISIONS = ("tf32", "fp16")


@dataclass(frozen=True)
class Hardware:
    """Options of the machine.

    Args:
        accelerator: auto takes a GPU where PyTorch sees one.
        precision: auto is bf16 autocast where the device has it in hardware, else fp32. tf32 and fp16 need a GPU;
            fp16 scales the loss, so that small gradients survive. bf16_weights: bf16, and weights that don't learn are
            held so, in half the memory (with tuning=full there are none); see models/precision.py.
        tokens_per_batch: residues and special tokens that one forward pass holds; accumulation follows from it.
            auto: as many as the planner says will fit.
        usd_per_hour: price of a machine, for cost/usd; None leaves money out.
        devices: processes on this machine, each with a device of its own. nodes: machines.
        strategy: how processes share the work: ddp (a replica each), fsdp (sharded weights), zero1-3 (DeepSpeed).
        offload: zero1-3: optimizer state in host memory; zero3: weights, too.
        gradient_checkpointing: compute each layer twice and keep none of its activations.
        compile: torch.compile the layers; on a GPU.
        slurm: what hydra/launcher=slurm asks for, besides nodes and devices.
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "bf16_weights"]
    tokens_per_batch: Annotated[int, Gt(0)] | Literal["auto"]
    usd_per_hour: Annotated[float, Ge(0)] | None
    devices: Annotated[int, Gt(0)] = 1
    nodes: Annotated[int, Gt(0)] = 1
    strategy: Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3"] = "single"
    offload: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    slurm: Slurm | None = None

    @property
    def usd_per_hour_of_all(self) -> float | None:
        """The price of all machines together."""
        return None if self.usd_per_hour is None else self.usd_per_hour * self.nodes

    def resolve(self) -> "Device":
        """The device that this machine offers; tells PyTorch whether float32 products on a GPU may be TF32.

        Raises: InputError: a GPU is asked for and PyTorch sees none, or a precision that the device lacks.
        """
        from plmft.training.interrupts import nothing_open

        with nothing_open():
            import torch

        has_gpu = torch.cuda.is_available()
        if self.accelerator == "gpu" and not has_gpu:
            raise InputError(
                "hardware.accelerator=gpu, but PyTorch sees no GPU here. Check the driver and that torch is a CUDA "
                "build (python -c 'import torch; print(torch.version.cuda)'), or set hardware=cpu."
            )
        kind = "gpu" if has_gpu and self.accelerator != "cpu" else "cpu"
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if kind == "gpu" else _cpu_has_bf16()
        self._check_precision(kind, bf16)
        if self.compile and kind == "cpu":  # minutes to compile, and attention stays as it is
            raise InputError("hardware.compile=true: pays on a GPU only, and this run computes on the CPU. Set false.")
        precision = self.precision if self.precision != "auto" else ("bf16" if bf16 else "fp32")
        if kind == "gpu":  # by PyTorch's older names: Lightning reads them, and PyTorch refuses a mix of old and new
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
        index = self._index(torch.cuda.device_count() if kind == "gpu" else None)
        name = torch.cuda.get_device_name(index) if kind == "gpu" else None
        return Device(kind, precision, name, index)

    def _index(self, gpus: int | None) -> int:
        """This process's number on the machine, which is that of its GPU."""
        if gpus is not None and self.devices > gpus:
            raise InputError(f"hardware.devices={self.devices}, but this machine has {gpus} GPUs. Set at most {gpus}.")
        return int(os.environ.get("LOCAL_RANK", "0")) if self.devices * self.nodes > 1 else 0

    def _check_precision(self, kind: Literal["cpu", "gpu"], bf16: bool) -> None:
        told, other = f"hardware.precision={self.precision}", "Set hardware.precision=bf16 or fp32."
        if kind == "cpu" and self.precision in GPU_PRECISIONS:
            raise InputError(f"{told}: needs a GPU, and this run computes on the CPU. {other}")
        if kind == "gpu" and self.precision in ("bf16", "bf16_weights", "tf32") and not bf16:  # one generation of GPUs
            raise InputError(f"{told}: this GPU has no such arithmetic. Set hardware.precision=fp16 or fp32.")


@dataclass(frozen=True)
class Device:
    """What Hardware came to on this machine. `name` is the GPU's, None for a CPU.

    `index` is the number of this process among those on this machine, and so of its GPU.
    """

    kind: Literal["cpu", "gpu"]
    precision: Literal["fp32", "tf32", "bf16", "fp16", "bf16_weights"]
    name: str | None
    index: int = 0

    @property
    def torch_type(self) -> Literal["cpu", "cuda"]:
        """The name that PyTorch has for it."""
        return "cuda" if self.kind == "gpu" else "cpu"

    @property
    def lightning_precision(self) -> str:
        """The name that Lightning has for the precision."""
        return {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(self.arithmetic, "32-true")

    @property
    def arithmetic(self) -> Literal["fp32", "tf32", "bf16", "fp16"]:
        """The type of its matrix products."""
        return "bf16" if self.precision == "bf16_weights" else self.precision


def check_zero(strategy: str, precision: str) -> None:
    """Whether DeepSpeed's `strategy` (zero1-3) is possible. Imports nothing.

    Raises: InputError: the package is not installed, or the precision needs a scaler that all ranks share.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            f"hardware.strategy={strategy}: needs DeepSpeed, which is not installed. Run pip install deepspeed, "
            "or set hardware=fsdp."
        )
    if precision == "fp16":
        raise InputError(
            f"hardware.precision=fp16: with {strategy} each rank would scale the loss by itself. Set bf16 or fp32."
        )


def _cpu_has_bf16() -> bool:
    import torch

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
