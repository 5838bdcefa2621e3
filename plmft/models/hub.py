"""A published checkpoint's folder: from the Hugging Face cache, or downloaded into it at a pinned commit.

With everything in the cache no network is touched. A download takes config.json and one set of weights, nothing else.
"""

import re
from collections.abc import Collection
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants as hub_settings

from plmft import InputError
from plmft.models.spec import TransformerSpec

CONFIG = "config.json"
# The ways in which weights lie in a folder, the best first.
WEIGHT_SETS = (
    r"model\.safetensors",
    r"model-\d+-of-(\d+)\.safetensors",
    r"pytorch_model\.bin",
    r"pytorch_model-\d+-of-(\d+)\.bin",
)


def fetch(spec: TransformerSpec) -> Path:
    """The folder of the typed revision, whose name is the hub's commit; a download that was cut off goes on.

    Raises: InputError: nothing is published, or it is neither in the cache nor to be had.
    """
    if spec.hub is None:
        raise InputError(
            f"{spec.name}: no weights are published. Set model.init=random, or give model.path or model.checkpoint."
        )
    if (folder := cached(spec)) is not None:
        return folder
    try:
        return _download(spec.hub, spec.revision)
    except Exception as error:  # the client raises errors of its own, of its HTTP library and of the disk
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"{spec.name}: the weights of {spec.hub} (revision {spec.revision or 'main'}) are not in the Hugging Face "
            f"cache ({hub_settings.HF_HUB_CACHE}) and can't be downloaded ({reason}). Give a local checkpoint as "
            "model.path=FOLDER, fill that cache from a machine with a network, or set model.init=random."
        ) from error


def cached(spec: TransformerSpec) -> Path | None:
    """The folder of the typed revision in the Hugging Face cache, if its config and weights are there."""
    if spec.hub is None:
        return None
    config = huggingface_hub.try_to_load_from_cache(
        spec.hub, CONFIG, cache_dir=hub_settings.HF_HUB_CACHE, revision=spec.revision
    )
    return Path(config).parent if isinstance(config, str) and weight_files(Path(config).parent) else None


def _download(repository: str, revision: str | None) -> Path:
    listed = huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=20)
    files = weight_set([entry.rfilename for entry in listed.siblings])
    if not files:
        raise FileNotFoundError("it has neither safetensors nor pytorch_model.bin")
    return Path(
        huggingface_hub.snapshot_download(
            repository, revision=revision, cache_dir=hub_settings.HF_HUB_CACHE, allow_patterns=[CONFIG, *files]
        )
    )


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold the weights; empty: there are none, or a shard is missing."""
    return [folder / name for name in weight_set([file.name for file in folder.iterdir() if file.is_file()])]


def weight_set(names: Collection[str]) -> list[str]:
    """Of a folder's file names, those of the best complete set of weights."""
    for pattern in WEIGHT_SETS:
        matches = [match for name in sorted(names) if (match := re.fullmatch(pattern, name))]
        if matches and (not matches[0].groups() or {int(match[1]) for match in matches} == {len(matches)}):
            return [match[0] for match in matches]
    return []
