"""Is everything there that a run needs? One line a check, with what to do; nothing is downloaded, made or started."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plmft import InputError
from plmft.models.spec import TransformerSpec
from plmft.tracking.options import Tracking
from plmft.training.hardware import Hardware

PACKAGES = ("torch", "pytorch-lightning", "transformers", "peft", "mlflow")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
LEAST_FREE_GB = 2.0  # for logs, predictions and the store


@dataclass(frozen=True)
class Check:
    """state: problem blocks the run; note tells something worth knowing."""

    state: Literal["ok", "note", "problem"]
    told: str


def check_packages() -> Check:
    """Versions, against what the package asks for."""
    from packaging.requirements import Requirement

    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}
    wrong = []
    for text in importlib.metadata.requires("plmft") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if not _installed(wanted.name):
            wrong.append(f"{wanted} is not installed")
        elif not wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True):
            wrong.append(f"{wanted}, but {importlib.metadata.version(wanted.name)} is installed")
    told = ", ".join(["Python " + platform.python_version(), *(f"{n} {v}" for n, v in versions.items())])
    if wrong:
        return Check("problem", f"{told}: {'; '.join(wrong)}. Run pip install -r requirements.lock.")
    return Check("ok", told)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_device(hardware: Hardware, planned_elsewhere: bool) -> Check:
    """GPU, driver and half precision. planned_elsewhere: the plan is for a card that the user named."""
    import torch

    if torch.cuda.is_available() and hardware.accelerator != "cpu":
        name, build = torch.cuda.get_device_name(), torch.version.cuda
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Check("ok", f"{name}, CUDA {build}, driver {_driver()}; bf16 in hardware: {'yes' if bf16 else 'no'}")
    driver = "no NVIDIA driver" if not NVIDIA_DRIVER.exists() else f"driver {_driver()}, but torch can't use it"
    if hardware.accelerator == "gpu":
        told = f"no GPU here ({driver}; torch's CUDA: {torch.version.cuda or 'none, a CPU build'})"
        if planned_elsewhere:
            return Check("note", f"{told}; planned for another machine")
        return Check("problem", f"{told}. Set hardware=cpu, or name a card to plan for: doctor.gpu=H100.")
    capabilities = torch.cpu.get_capabilities()
    bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return Check("ok", f"CPU, {torch.get_num_threads()} threads; bf16 in hardware: {'yes' if bf16 else 'no, so fp32'}")


def _driver() -> str:
    try:
        return NVIDIA_DRIVER.read_text().split("Module")[1].split()[0]
    except (OSError, IndexError):
        return "unknown"


def check_disk(runs: Path, needed_gb: float | None) -> Check:
    """Room and right to write. needed_gb: checkpoints and tuned model; None: not known."""
    place = next(folder for folder in (runs, *runs.parents) if folder.exists())
    free_gb = shutil.disk_usage(place).free / 1e9
    wanted_gb = (needed_gb or 0.0) + LEAST_FREE_GB
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Check("problem", f"{place} can't be written. Mend its permissions, or set PLMFT_RUNS to another folder.")
    told = f"{free_gb:,.1f} GB free for {runs}"
    if needed_gb is not None:
        told += f"; checkpoints and tuned model take some {needed_gb:,.1f} GB"
    if free_gb < wanted_gb:
        return Check("problem", f"{told}. Make room, or set PLMFT_RUNS to a folder on a larger disk.")
    return Check("ok", told)


def check_tracking(tracking: Tracking, runs: Path) -> Check:
    """Whether the MLflow store can be reached."""
    from plmft.tracking.lineage import mask
    from plmft.tracking.store import check_server

    address = tracking.address(runs)
    try:
        check_server(address)
    except InputError as error:
        return Check("problem", str(error))
    if address.startswith("sqlite:"):
        file = Path(address.removeprefix("sqlite:///"))
        return Check("ok", f"MLflow: {file}{'' if file.exists() else ', which the first run will make'}")
    reached = "answers" if address.startswith("http") else "is looked at when a run starts"
    return Check("ok", f"MLflow: {mask(address)} {reached}")


def check_weights(spec: TransformerSpec) -> Check:
    """Whether the model's weights are on this machine. Published files hold 4 bytes a weight."""
    if spec.init == "random":
        return Check("ok", f"{spec.name}: random weights, as asked for")
    for key in ("path", "checkpoint"):
        if (given := getattr(spec, key)) is not None:
            if Path(given).expanduser().exists():
                return Check("ok", f"model.{key}={given}")
            return Check("problem", f"model.{key}={given}: there is no such file or folder. Correct it.")
    from plmft.models.hub import cached

    folder = cached(spec)
    if folder is not None:
        return Check("ok", f"{spec.hub}: in the Hugging Face cache, {folder}")
    told = f"{spec.hub} is not in the Hugging Face cache: some {4 * spec.parameters / 1e9:,.1f} GB to download"
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        way_out = "Unset it, give model.path=FOLDER, or set model.init=random."
        return Check("problem", f"{told}, but HF_HUB_OFFLINE is set. {way_out}")
    return Check("note", f"{told} at first use.")


def check_optional(hardware: Hardware, tuning: str, elsewhere: bool) -> Iterator[Check]:
    """Packages that some options need, and the compiled kernel of a CPU. elsewhere: the run is for another machine."""
    lacking = "note" if elsewhere else "problem"
    if hardware.strategy.startswith("zero") and hardware.devices * hardware.nodes > 1:
        yield _needed("deepspeed", f"hardware.strategy={hardware.strategy}", "set hardware=fsdp", lacking)
    if tuning == "qlora":
        yield _needed("bitsandbytes", "tuning=qlora", "set tuning=lora", lacking)
    if hardware.accelerator != "gpu":
        from plmft.models import kernels

        if kernels.load() is not None:
            yield Check("ok", "compiled attention kernel: built")
        else:
            yield Check("note", "compiled attention kernel: not built; python -m plmft.models.kernels: faster on a CPU")


def _needed(package: str, option: str, otherwise: str, lacking: Literal["note", "problem"]) -> Check:
    if importlib.util.find_spec(package) is None:
        return Check(lacking, f"{option} needs the package {package}. Run pip install {package}, or {otherwise}.")
    return Check("ok", f"{package} {importlib.metadata.version(package)}")
