"""Where and how fast a run computes. Nothing here changes the science: `batch_size` means the same everywhere."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from plmft import InputError


@dataclass(frozen=True)
class Hardware:
    """Options of the machine.

    Args:
        accelerator: auto takes a GPU where PyTorch sees one.
        precision: auto is bf16 autocast where the device has it in hardware, else fp32.
        tokens_per_batch: residues and special tokens that one forward pass holds; accumulation follows from it.
        usd_per_hour: price of the machine, for cost/usd; None leaves money out.
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Literal["auto", "bf16", "fp32"]
    tokens_per_batch: Annotated[int, Gt(0)]
    usd_per_hour: Annotated[float, Ge(0)] | None

    def resolve(self) -> "Device":
        """The device that this machine offers. Raises: InputError: a GPU is asked for and PyTorch sees none."""
        import torch

        has_gpu = torch.cuda.is_available()
        if self.accelerator == "gpu" and not has_gpu:
            raise InputError(
                "hardware.accelerator=gpu, but PyTorch sees no GPU here. Check the driver and that torch is a CUDA "
                "build (python -c 'import torch; print(torch.version.cuda)'), or set hardware=cpu."
            )
        kind = "gpu" if has_gpu and self.accelerator != "cpu" else "cpu"
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if kind == "gpu" else _cpu_has_bf16()
        if self.precision == "bf16" and kind == "gpu" and not bf16:
            raise InputError(
                "hardware.precision=bf16, but this GPU has no bf16 arithmetic. Set hardware.precision=fp32."
            )
        precision = self.precision if self.precision != "auto" else ("bf16" if bf16 else "fp32")
        name = torch.cuda.get_device_name() if kind == "gpu" else None
        return Device(kind, precision, name)


@dataclass(frozen=True)
class Device:
    """What Hardware came to on this machine. `name` is the GPU's, None for a CPU."""

    kind: Literal["cpu", "gpu"]
    precision: Literal["bf16", "fp32"]
    name: str | None

    @property
    def torch_type(self) -> Literal["cpu", "cuda"]:
        """The name that PyTorch has for it."""
        return "cuda" if self.kind == "gpu" else "cpu"

    @property
    def lightning_precision(self) -> str:
        """The name that Lightning has for the precision."""
        return "bf16-mixed" if self.precision == "bf16" else "32-true"


def _cpu_has_bf16() -> bool:
    import torch

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
