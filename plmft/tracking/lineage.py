"""What a run came from: code, versions, machine, config; and what must not come along: secrets.

Costs four calls of git and a look at /proc (tens of ms). What cannot be known is left out, never guessed.
"""

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

MASK = "***"
UNLISTED = ("_target_", "citation", "licence")
PACKAGES = ("plmft", "torch", "transformers", "pytorch-lightning", "peft", "mlflow")

SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secrets?(key)?(_|$)|api_?key|access_?key|private_?key|credential|signature|^sig$|token$"
)
TOKEN_OPTION = re.compile(r"(^|_)token_")  # a secret if text (token_value), not if a number or switch (pad_token_id: 1)
NUMBER_OR_SWITCH = re.compile(r"-?[\d.]+(e-?\d+)?|true|false|null", re.IGNORECASE)
USERINFO = re.compile(r"(\w[\w+.-]*://?)(?:[^/\s]*|[^/\s:]+:\S*)@")
ASSIGNMENT = re.compile(r"""([\w.-]+)=("[^"]*"|'[^']*'|[^\s&;,]+)""")


def environment_tags() -> dict[str, str]:
    """Tags of this process: git state, versions, machine, GPU, user.

    git_* is there when plmft runs from its own checkout (not from a wheel); gpu.* where torch sees one.
    """
    return git_tags(checkout()) | version_tags() | machine_tags() | _torch_tags() | _user_tag()


def checkout() -> Path:
    """Where plmft's repository would be: the folder above the package."""
    import plmft

    return Path(plmft.__file__).resolve().parent.parent


def git_tags(checkout: Path) -> dict[str, str]:
    """Commit and dirtiness of a checkout, untracked files counted; empty where `checkout` is no repository's top.

    git_diff tells two changed checkouts of one commit apart.
    """
    changes = code_changes(checkout)
    if changes is None:
        return {}
    commit = _git(checkout, "rev-parse", "--verify", "HEAD") or ""
    tags = {"git_commit": commit, "git_dirty": str(any(changes)).lower(), "mlflow.source.git.commit": commit}
    if any(changes):
        tags["git_diff"] = hashlib.sha256("\n".join(changes).encode()).hexdigest()[:16]
    return tags


def code_changes(checkout: Path) -> tuple[str, str] | None:
    """(what git's diff says of tracked files, the names of untracked ones, a line each).

    None where `checkout` is not the top of a repository with a commit.
    """
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != checkout.resolve():
        return None
    diff = _git(checkout, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    untracked = _git(checkout, "ls-files", "--others", "--exclude-standard")
    return None if diff is None or untracked is None else (diff, untracked)


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, timeout=10, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def version_tags() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, read from their metadata, nothing imported."""
    tags = {"version.python": platform.python_version()}
    for package in PACKAGES:
        try:
            tags[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags


def machine_tags(proc: Path = Path("/proc")) -> dict[str, str]:
    """Platform, host, CPU model, logical and usable cores, RAM in GB (10⁹ bytes)."""
    tags = {"machine.platform": platform.platform(), "machine.host": platform.node()}
    if cores := os.cpu_count():
        tags["machine.logical_cores"] = str(cores)
    if hasattr(os, "sched_getaffinity"):
        tags["machine.usable_cores"] = str(len(os.sched_getaffinity(0)))
    if cpu := _field(proc / "cpuinfo", r"^model name\s*:\s*(.+)$"):
        tags["machine.cpu"] = cpu
    if kib := _field(proc / "meminfo", r"^MemTotal:\s*(\d+) kB"):
        tags["machine.ram_gb"] = f"{int(kib) * 1024 / 1e9:.1f}"
    return tags


def gpu_tags(cuda: ModuleType, proc: Path = Path("/proc")) -> dict[str, str]:
    """Names, number and driver of the GPUs that `torch.cuda` sees; empty where it sees none."""
    if not cuda.is_available():
        return {}
    names = [cuda.get_device_name(device) for device in range(cuda.device_count())]
    tags = {"gpu.name": ", ".join(sorted(set(names))), "gpu.count": str(len(names))}
    if driver := _field(proc / "driver/nvidia/version", r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)"):
        tags["gpu.driver"] = driver
    return tags


def _torch_tags() -> dict[str, str]:
    import torch

    built = {"version.cuda": torch.version.cuda} if torch.version.cuda else {}
    return built | gpu_tags(torch.cuda)


def _user_tag() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}  # MLflow's own name: its UI has a column for it
    except (KeyError, OSError):  # a container's user without a name
        return {}


def _field(file: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Nested config to dotted keys and text values, each as one would type it on the command line.

    Nulls and what nobody compares (UNLISTED) are left out; config.yaml has them.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if value is None or key in UNLISTED:
            continue
        name = re.sub(r"[^\w./ :-]", "_", str(key))  # what MLflow takes in a name
        if isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": text for inner, text in flatten(value).items()}
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return flat


def scrub(config: Any) -> Any:
    """A copy without secrets: values of keys named like one, logins in addresses, `name=value` within text.

    Secret are names that contain password, secret, api_key and their like, and those that end in token
    (`hf_token`; not `tokens_per_batch` or `tokenizer`; `token_dropout` and its like only where they hold text).
    Doing it twice changes nothing more.
    """
    if isinstance(config, Mapping):
        return {key: MASK if is_secret(str(key), value) else scrub(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(scrub(value) for value in config)
    return mask(config) if isinstance(config, str) else config


def mask(text: str) -> str:
    """The text with every login in an address and every secret `name=value` replaced by ***."""
    text = USERINFO.sub(rf"\1{MASK}@", text)
    return ASSIGNMENT.sub(lambda found: f"{found[1]}={MASK}" if is_secret(found[1], found[2]) else found[0], text)


def is_secret(key: str, value: object) -> bool:
    """Whether a value is one by the name of its key."""
    if value is None or value == "" or isinstance(value, bool):
        return False
    words = [part.lower().replace("-", "_") for part in key.split(".")]
    if any(SECRET_NAME.search(word) for word in words):
        return True
    if isinstance(value, int | float) or (isinstance(value, str) and NUMBER_OR_SWITCH.fullmatch(value)):
        return False
    return any(TOKEN_OPTION.search(word) for word in words)
