"""Run again what an MLflow run was: the config comes from the store alone, and what differs from then is told.

    python -m plmft.train --from-run 3f6c... seed=1

The saved config is composed with overrides and checked like any other. What the run was made of goes to the job by the
environment, which ranks inherit. Costs MLflow's import, which training pays anyway, and two small artifacts.
"""

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from plmft import InputError
from plmft.config.check import find_target
from plmft.config.compose import compose_config, config_folder, unknown_choices, unknown_key
from plmft.tracking.differences import SOURCE, Source
from plmft.tracking.lineage import MASK, flatten, scrub
from plmft.tracking.options import runs_dir

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

OPTION = "--from-run"
TRACKING, EXPERIMENT = "tracking", "experiment"
USAGE = "python -m plmft.train --from-run RUN_ID [key=value ...]"
Config = dict[str, Any]


def composed(arguments: Sequence[str]) -> Config:
    """The config that the command line asks for; leaves the run's `Source` in the environment, for the job.

    The new run is tracked where any run of this command line would be. The earlier one is looked for at tracking.uri if
    that is given, else MLFLOW_TRACKING_URI, else the SQLite file in the runs folder.

    Raises: InputError: a mistake on the command line; no such run; a config that can't be used as it is.
    """
    from plmft.tracking.reading import open_existing, read_address, stored_run

    run_id, overrides = _parsed(arguments)
    today = _plain(compose_config([]))
    place = _overridden({TRACKING: today[TRACKING]}, [o for o in overrides if _part(o) == TRACKING])[TRACKING]
    uri = read_address(place["uri"], runs_dir())
    client = open_existing(uri)
    run = stored_run(client, uri, run_id)
    saved = _saved_config(client, uri, run)
    filled = list(_fill(saved, today))
    saved[TRACKING] = place
    config = _overridden(saved, [o for o in overrides if _part(o) != TRACKING])
    _refuse_masked(config, run_id)
    source = _source(client, uri, run, filled, _changes(saved, config))
    os.environ[SOURCE] = source.text()
    return config


def _parsed(arguments: Sequence[str]) -> tuple[str, list["Override"]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith(f"{OPTION}=") else [word])]
    at = words.index(OPTION)
    rest = words[:at] + words[at + 2 :]
    if len(words) < at + 2 or not words[at + 1] or "=" in words[at + 1] or words[at + 1].startswith("-"):
        raise InputError(f"{OPTION}: needs the id of a run. {USAGE}")
    for word in rest:
        if word.startswith("-"):
            raise InputError(f"{word}: {OPTION} repeats one run and takes key=value only. {USAGE}")
    try:
        overrides = OverridesParser.create().parse_overrides(rest)
    except HydraException as error:
        raise InputError(f"The command line can't be read: {str(error).splitlines()[0]}") from None
    for override in overrides:
        if override.is_sweep_override() or override.is_add() or override.is_delete():
            raise InputError(f"{override.input_line}: {OPTION} repeats one run and takes one value for a key.")
        if override.key_or_group == EXPERIMENT:
            raise InputError(f"{override.input_line}: an experiment replaces all that is repeated. Leave {OPTION} out.")
    return words[at + 1], overrides


def _part(override: "Override") -> str:
    return override.key_or_group.partition(".")[0]


def _plain(config: object) -> Config:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _saved_config(client: "MlflowClient", uri: str, run: "StoredRun") -> Config:
    from plmft.tracking.reading import artifact_text

    run_id = run.info.run_id
    if run.data.tags.get("sweep") == "true":
        raise InputError(f"{run_id} is a sweep, not one run. Its runs: {_children(client, uri, run)}")
    text = artifact_text(client, run_id, "config.yaml")
    config = yaml.safe_load(text) if text else None
    if not isinstance(config, dict):
        raise InputError(f"{run_id}: its artifacts hold no config.yaml. It is no run of plmft's, or ended before one.")
    return config


def _children(client: "MlflowClient", uri: str, parent: "StoredRun") -> str:
    from plmft.tracking.reading import all_runs, experiments

    within = list(experiments(client, uri).values())
    where = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = [f"{c.info.run_id} ({c.info.run_name})" for c in all_runs(client, uri, within, where)]
    return ", ".join(children) or "none"


def _fill(saved: Config, today: Config) -> Iterator[str]:
    """Give a config of an older version the keys that are new; yields each with the default that it got."""
    for key, value in today.items():
        if key not in saved:
            saved[key] = value
            if key != TRACKING:
                yield key
        elif key != TRACKING and isinstance(saved[key], dict) and _lacks(saved[key]):
            yield from (f"{key}.{inner}" for inner in _fill_part(saved[key], _default_of(key, saved[key], value)))


def _lacks(part: Config) -> bool:
    """Whether its class, or one within it, takes an option that it doesn't name."""
    try:
        takes = inspect.signature(find_target(part["_target_"])).parameters if "_target_" in part else {}
    except (ImportError, AttributeError):  # the check tells of it
        return False
    return any(name not in part for name in takes) or any(_lacks(v) for v in part.values() if isinstance(v, dict))


def _fill_part(saved: Config, default: Config) -> Iterator[str]:
    if saved.get("_target_") != default.get("_target_"):
        return
    for key, value in default.items():
        if key not in saved and value != "???":
            saved[key] = value
            yield f"{key}={value}"
        elif isinstance(value, dict) and isinstance(saved.get(key), dict):
            yield from (f"{key}.{inner}" for inner in _fill_part(saved[key], value))


def _default_of(group: str, saved: Config, today: Config) -> Config:
    """What conf/ says of this part now: the choice of its name and class, else of its class; empty: there is none."""
    from omegaconf import OmegaConf

    if _names(saved, today, group):
        return today
    for file in sorted((config_folder() / group).glob("*.yaml")):
        if _names(saved, yaml.safe_load(file.read_text()), group):
            return OmegaConf.to_container(compose_config([], f"{group}/{file.stem}"))[group]
    return today if today.get("_target_") == saved.get("_target_") else {}


def _names(saved: Config, content: Config, group: str) -> bool:
    """Whether a file of the group is of the saved part's name and class."""
    own = content.get(group, content)
    return all(own.get(key) == saved.get(key) for key in ("_target_", "name"))


def _overridden(config: Config, overrides: Sequence["Override"]) -> Config:
    """The config with choices of groups taken first, as Hydra does, then single values."""
    from omegaconf import OmegaConf

    groups = {folder.name: folder for folder in config_folder().iterdir() if folder.is_dir()}
    chosen = [o for o in overrides if o.key_or_group in groups]
    errors = [error for o in chosen for error in unknown_choices(o, groups[o.key_or_group])]
    result = OmegaConf.create(config)
    for override in chosen if not errors else ():
        group = override.key_or_group
        for key, value in compose_config([], f"{group}/{override.value()}").items():
            if key == group:  # what the file leaves to be given (???) stays as it was, the rest is replaced
                result[key] = {name: result[key][name] for name in value if name in result[key]}
            result[key] = OmegaConf.merge(result[key], value)
    values = [o for o in overrides if o not in chosen]
    errors += [error for o in values for error in unknown_key(o, result)]
    if errors:
        raise InputError("\n".join(errors))
    for override in values:
        OmegaConf.update(result, override.key_or_group, override.value(), merge=True)
    return _plain(result)


def _refuse_masked(config: Config, run_id: str) -> None:
    keys = [key for key, value in flatten(config).items() if MASK in value and not key.startswith(f"{TRACKING}.")]
    if keys:
        given = " ".join(f"{key}=..." for key in keys)
        raise InputError(f"{run_id} was saved without its secrets ({MASK}). Give them on the command line: {given}")


def _changes(saved: Config, config: Config) -> list[tuple[str, str, str]]:
    """(key, then, now) of what overrides changed; secrets masked."""
    before, after = (flatten(scrub({k: v for k, v in c.items() if k != TRACKING})) for c in (saved, config))
    keys = dict.fromkeys([*before, *after])
    return [(k, before.get(k, "-"), after.get(k, "-")) for k in keys if before.get(k) != after.get(k)]


def _source(
    client: "MlflowClient", uri: str, run: "StoredRun", filled: list[str], changes: list[tuple[str, str, str]]
) -> Source:
    from plmft.tracking.lineage_files import REQUIREMENTS
    from plmft.tracking.reading import artifact_text

    kept: Mapping[str, float] = {
        name: value for name, value in run.data.metrics.items() if name.startswith(("test", "data/", "hardware/"))
    }
    packages = artifact_text(client, run.info.run_id, REQUIREMENTS)
    return Source(
        run_id=run.info.run_id,
        status=run.info.status,
        tags=dict(run.data.tags),
        metrics=dict(kept),
        packages=packages.splitlines() if packages else [],
        filled=filled,
        changed=changes,
    )
