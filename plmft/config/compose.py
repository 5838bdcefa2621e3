"""Explain a command line's mistakes before Hydra composes it: unknown choices and keys, with the nearest spelling."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import plmft
from plmft import InputError
from plmft.config.check import nearest

CONFIG = "train"
HYDRAS_COPY = ("hydra.run.dir", "hydra.output_subdir")  # where Hydra would write it


def config_folder() -> Path:
    """The folder `conf`: beside the package in a checkout, inside it in a wheel."""
    package = Path(plmft.__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def check_command_line(arguments: list[str], name: str = CONFIG) -> None:
    """`name`: of the config file.

    Raises: InputError: an override that can't be read, an unknown choice of a group, an unknown key."""
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
    except HydraException as error:
        raise InputError(f"The command line can't be read: {str(error).splitlines()[0]}") from None
    groups = {folder.name: folder for folder in config_folder().iterdir() if folder.is_dir()}
    chosen = [o for o in overrides if o.key_or_group in groups]
    errors = [error for o in chosen for error in unknown_choices(o, groups[o.key_or_group])]
    if not errors:
        config = compose_config([f"{o.key_or_group}={_values(o)[0]}" for o in chosen], name)
        errors = [error for o in overrides if o not in chosen for error in unknown_key(o, config)]
    if errors:
        raise InputError("\n".join(errors))


def compose_config(overrides: list[str], name: str = CONFIG) -> DictConfig:
    """The composed config of the file `name`. Raises: InputError: Hydra can't compose it."""
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose(name, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(str(error).splitlines()[0]) from None


def _values(override: Override) -> list[str]:
    values = override.value()
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator()]
    return [str(v) for v in values] if isinstance(values, list) else [str(values)]


def unknown_choices(override: Override, folder: Path) -> Iterator[str]:
    """A message for each choice that is no file of the group's folder."""
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    for value in _values(override):
        if value not in known and value != "None":
            yield f"{override.key_or_group}={value}: there is no such {override.key_or_group}.{nearest(value, known)}"


def unknown_key(override: Override, config: DictConfig) -> Iterator[str]:
    """A message if the config has no such key, or none that may be set."""
    path = override.key_or_group
    if path in HYDRAS_COPY:
        yield f"{path}: Hydra's copy of the config would lie outside of the runs folder, and hold secrets. Drop it."
    if override.is_add() or override.is_force_add() or path.partition(".")[0].partition("/")[0] == "hydra":
        return
    node, at = config, []
    for key in path.split("."):
        if not OmegaConf.is_dict(node) or key not in node:
            where = ".".join(at) or "the config"
            known = [str(k) for k in node if k not in ("_target_", "hydra")] if OmegaConf.is_dict(node) else []
            yield f"{path}: {where} has no key {key!r}.{nearest(key, known)}"
            return
        at.append(key)
        node = node._get_node(key)


def parts_of(config: dict[str, Any]) -> dict[str, Any]:
    """The parts by key. Raises: InputError: a part's own rule is broken; Hydra wraps it in an error of its own."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return {k: instantiate(v, _convert_="all") if isinstance(v, dict) else v for k, v in config.items()}
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
