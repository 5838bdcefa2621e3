"""Where the tuned model is that a user names: a run by id, its beginning or its name, a registered model, a folder.

A folder costs nothing. Else MLflow is imported (1 to 2 s) and asked. A run of this machine's runs folder gives the
folder that it wrote; a model that lies elsewhere is fetched once, whole or not at all, into runs/cache/models.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from plmft import InputError
from plmft.tracking.lineage import mask
from plmft.tracking.listing import KIND, TRAINING
from plmft.tracking.run import run_id_of

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

DESCRIPTION = "plmft.json"  # what makes a folder a tuned model's
MODEL = "model"  # the folder's name where a run left it
INSIDE = ("", MODEL, "artifacts/tuned")  # of a tuned model, a run's folder, an MLflow model
REGISTERED, RUNS, LOGGED = "models:/", "runs:/", "m-"
MOST_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A tuned model's folder, and the run that left it; None where that isn't known."""

    folder: Path
    run_id: str | None = None


def find_model(model: str, uri: str, runs: Path) -> Found:
    """The tuned model that is named.

    Args:
        model: a run's id, or as much of its beginning as is its alone; a run's name, or its folder's;
            models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-…; runs:/ID/model; or a folder.
        uri: the store's address (`plmft.tracking.reading.read_address`). runs: the runs folder.

    Raises: InputError: there is no such run, model or folder; the run didn't finish, or left no tuned model.
    """
    place = Path(model).expanduser()
    if model and place.is_dir():
        folder = _in_folder(place)
        return Found(folder, run_id_of(folder.parent))
    if not model or (("/" in model or model.startswith((".", "~"))) and not model.startswith((REGISTERED, RUNS))):
        raise InputError(f"{model!r}: there is no such folder. Name a run's id, or the folder of a model.")
    from plmft.tracking.reading import open_existing

    client = open_existing(uri)
    if model.startswith(REGISTERED):
        return _registered(client, uri, model, runs)
    return _of_run(client, uri, _run(client, uri, model.removeprefix(RUNS).partition("/")[0]), runs)


def summary_beside(folder: Path) -> dict[str, Any]:
    """`summary.json` of the run that left a model's folder, with its `metrics`, where that lies beside it; else empty.

    Beside a copy of another name lies anything.
    """
    try:
        found = json.loads((folder.parent / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    known = folder.name == MODEL and isinstance(found, dict) and isinstance(found.get("metrics"), dict)
    return found if known else {}


def _in_folder(place: Path) -> Path:
    for inside in INSIDE:
        if (place / inside / DESCRIPTION).is_file():
            return place / inside
    raise InputError(
        f"{place} holds no tuned model (no {DESCRIPTION}). Name the folder `model` of a run, or the run's id."
    )


def _run(client: "MlflowClient", uri: str, named: str) -> "StoredRun":
    """By id or its beginning, else by the run's name, else by its folder's."""
    from plmft.tracking.reading import STORE, all_runs, experiments

    if '"' in named or "%" in named:
        raise InputError(f"{named}: no run is called so. python -m plmft.report runs lists runs with their ids.")
    everywhere = list(experiments(client, uri).values())
    ways = [f'attributes.run_name = "{named}"', f'tags.folder = "{named}"']
    if named.isalnum():
        ways.insert(0, f'attributes.run_id LIKE "{named.lower()}%"')
    for where in ways:
        alike = _that_train(all_runs(client, uri, everywhere, where, few=MOST_SHOWN))
        if len(alike) > 1:
            ids = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in alike)
            raise InputError(f"{named}: several runs are called so or begin so: {ids}. Give a whole id.")
        if alike:
            return alike[0]
    raise InputError(
        f"{named}: {mask(uri)} has no such run, and there is no such folder. python -m plmft.report runs lists its "
        f"runs with their ids; another store is named by {STORE}=ADDRESS."
    )


def _that_train(runs: "Iterator[StoredRun]") -> "list[StoredRun]":
    """The first of them that may have a model; where there is none, the first others, of which the reason is told."""
    may, others = [], []
    for run in runs:
        tags = run.data.tags
        (others if tags.get(KIND, TRAINING) != TRAINING or tags.get("sweep") == "true" else may).append(run)
        if len(may) == MOST_SHOWN:
            break
    return may or others[:MOST_SHOWN]


def _of_run(client: "MlflowClient", uri: str, run: "StoredRun", runs: Path) -> Found:
    run_id, tags = run.info.run_id, run.data.tags
    said = f"{run_id} ({run.info.run_name})"
    if tags.get("sweep") == "true":
        raise InputError(f"{said} is a sweep, which has no model of its own. Name one of its runs.")
    if run.info.status != "FINISHED":
        raise InputError(
            f"{said} did not finish: it is {run.info.status}. Give its command again, which goes on where it was; or "
            "name another run."
        )
    here = runs / "work" / tags.get("folder", ".") / MODEL
    if (here / DESCRIPTION).is_file():
        return Found(here, run_id)
    logged = [output.model_id for output in (run.outputs.model_outputs if run.outputs else ())]
    if not logged:
        raise InputError(f"{said} has no tuned model: {_why(tags)}")
    return Found(_fetched(client, uri, logged[0], runs), run_id)


def _why(tags: dict[str, str]) -> str:
    if tags.get(KIND, TRAINING) != TRAINING:
        parent = f", of {tags['plmft.parent_run']}" if tags.get("plmft.parent_run") else ""
        return f"it is a run of the kind {tags[KIND]}{parent}. Name a training run."
    if tags.get("tuning") == "none":
        return "it scored a pretrained model as it is (tuning=none). Name a run that trained."
    if tags.get("pruned") == "true":
        return "it was pruned by its search. Name a run that was tested."
    return "neither its folder nor the store holds one. Name a run that trained a network."


def _registered(client: "MlflowClient", uri: str, model: str, runs: Path) -> Found:
    """models:/m-… , models:/NAME/VERSION or models:/NAME@ALIAS."""
    from plmft.tracking.store import refusals

    name, _, version = model.removeprefix(REGISTERED).partition("/")
    with refusals(uri):
        if name.startswith(LOGGED) and not version:
            return Found(_fetched(client, uri, name, runs), client.get_logged_model(name).source_run_id)
        if "@" in name:
            found = client.get_model_version_by_alias(*name.split("@", 1))
        elif version.isdigit():
            found = client.get_model_version(name, version)
        else:
            raise InputError(f"{model}: give {REGISTERED}NAME/VERSION with a number, or {REGISTERED}NAME@ALIAS.")
        logged = found.model_id or (found.source or "").removeprefix(REGISTERED)
        if logged.startswith(LOGGED):
            return Found(_fetched(client, uri, logged, runs), found.run_id)
        if found.run_id:
            return _of_run(client, uri, client.get_run(found.run_id), runs)
    raise InputError(f"{model}: it was not made by a run of plmft's.")


def _fetched(client: "MlflowClient", uri: str, model_id: str, runs: Path) -> Path:
    """A logged model's weights: where the store has them, if this machine can see it, else copied."""
    from mlflow.exceptions import MlflowException

    from plmft.tracking.model_bundle import WEIGHTS
    from plmft.tracking.store import quiet, refusals

    kept = runs / "cache" / "models" / model_id
    if (kept / DESCRIPTION).is_file():
        return kept
    with refusals(uri):
        location = client.get_logged_model(model_id).artifact_location
    if location.startswith("file:"):
        return _in_folder(Path(url2pathname(urlsplit(location).path)))
    import mlflow.artifacts

    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".part-") as scratch:
        try:
            with quiet():
                # by its place: by its id, MLflow asks the store of its own settings instead of `uri`
                source = f"{location.rstrip('/')}/{WEIGHTS}"
                got = mlflow.artifacts.download_artifacts(source, dst_path=scratch, tracking_uri=uri)
        except (MlflowException, OSError) as error:
            raise InputError(f"{model_id}: its files can't be had from {mask(uri)}: {mask(str(error))}") from error
        return _moved(_in_folder(Path(got)), kept)


def _moved(folder: Path, kept: Path) -> Path:
    try:
        os.replace(folder, kept)
    except OSError:
        if not (kept / DESCRIPTION).is_file():  # else another process was first
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(folder, kept)
    return kept
