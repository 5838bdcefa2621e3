"""Score a tuned model on the test sets of a task: metrics with intervals, predictions, and what the pass costs.

    python -m plmft.evaluate run=RUN_ID
    python -m plmft.evaluate run=RUN_ID task=stability data.length_policy=window
    python -m plmft.evaluate run=mlruns/work/RUN/model task=table task.file=new.csv records=all
    python -m plmft.evaluate model=esm2_650m task=mutation_effects

run= takes a run's id, as much of its beginning as is its alone, its name, a folder, or models:/NAME/VERSION. Without
task= the run's own task is scored, as it was configured; another one must be of the same kind. records=all scores every
record of the data, whatever its split, for data that the run never saw. Without run= a pretrained model (model=,
model.path=) is scored as it is, on a task that needs no tuning: mutation_effects, perplexity.

Takes task, data, limit, seed, hardware and tracking as plmft.train does; hardware=ddp hardware.devices=2 shares the
records between two processes. Leaves an MLflow run of the kind evaluation with its parent's id, and summary.json and
predictions.parquet in its folder: docs/evaluating.md. Exit code 0; 1: a process failed; 2: a mistake.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plmft import InputError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from plmft.training.evaluated import Evaluated
    from plmft.training.launching import RankSide

CONFIG, COMMAND = "evaluate", "plmft.evaluate"
OF_RUN = ("model", "tuning", "optim", "loss", "checkpoint", "batch_size", "experiment")  # what run= brings
EVALUATED = "evaluated"


def main() -> None:
    """The command."""
    from plmft.efficiency.allocator import bound_kernel_caches
    from plmft.ending import ending
    from plmft.training.interrupts import terminate_as_interrupt
    from plmft.training.launching import RankSide

    terminate_as_interrupt()
    bound_kernel_caches()
    rank = RankSide.find()
    if rank is not None:
        return rank.work(lambda: _as_rank(rank))
    with ending():
        evaluate(sys.argv[1:])


def evaluate(arguments: Sequence[str]) -> float | None:
    """The primary metric on the test split. Raises: InputError: a user's mistake. RankFailed: a process failed."""
    from plmft.config.check import check
    from plmft.training.launching import launch, starts_ranks

    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return None
    config = composed(arguments)
    own = {key: config.pop(key) for key in (EVALUATED, "records") if key in config}
    check(config)
    if EVALUATED not in own:
        return _untuned(config)
    if config["hardware"]["devices"] * config["hardware"]["nodes"] > 1 and config["hardware"]["strategy"] != "ddp":
        strategy = config["hardware"]["strategy"]
        raise InputError(f"hardware.strategy={strategy}: each process holds the whole model. Set hardware=ddp.")
    if starts_ranks(config["hardware"]):
        return launch(config | own, COMMAND)
    return _evaluate(config, **own)


def composed(arguments: Sequence[str]) -> dict[str, Any]:
    """The config; with run=, the model's part comes from its folder, and what isn't given from its run.

    Raises: InputError: a mistake on the command line; no such run; a task of another kind.
    """
    from plmft.config.words import check_alone, check_model

    words, given = _parsed(arguments)
    run = _text(words, "run")
    if run is None:
        check_model(words)
        return _plain(words)
    check_alone(run, words, OF_RUN)
    evaluated, saved = _evaluated(run, words)
    chosen = any(o.key_or_group == "task" for o in given)
    config = _with_task(words, given, None if chosen else saved, run)
    _from_run(config, saved, {o.key_or_group for o in given})
    config |= {part: evaluated.configured(part) for part in ("model", "tuning")}
    _check_kind(config, evaluated, run)
    return config | {EVALUATED: {"folder": str(evaluated.folder), "run_id": evaluated.run_id}}


def _parsed(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = list(arguments)
    unknown = [word for word in words if word.startswith("-") or "=" not in word]
    if unknown:
        raise InputError(f"{unknown[0]}: evaluation takes options of the form key=value only; --help tells of them.")
    try:
        return words, OverridesParser.create().parse_overrides([w for w in words if not w.startswith("run=")])
    except HydraException as error:
        raise InputError(f"The command line can't be read: {str(error).splitlines()[0]}") from None


def _text(words: Sequence[str], key: str) -> str | None:
    """A value as it was typed: Hydra would read the beginning of an id as a number (12345678, 1234e5)."""
    found = [word.partition("=")[2].strip("'\"") for word in words if word.startswith(f"{key}=")]
    return found[-1] if found and found[-1] not in ("null", "") else None


def _plain(words: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from plmft.config.compose import check_command_line, compose_config

    words = [word for word in words if not word.startswith("run=")]
    check_command_line(words, CONFIG)
    config = OmegaConf.to_container(compose_config(words, CONFIG), resolve=True, throw_on_missing=True)
    del config["run"]
    if config["records"] not in ("test", "all"):
        raise InputError(f"records={config['records']}: must be test or all.")
    return config


def _evaluated(run: str, words: Sequence[str]) -> tuple[Evaluated, dict[str, Any] | None]:
    """The model, and its run's config; None where only a folder is known."""
    from plmft.tracking.model_of_run import find_model
    from plmft.tracking.options import runs_dir
    from plmft.tracking.reading import read_address
    from plmft.training.evaluated import Evaluated

    uri = read_address(_text(words, "tracking.uri"), runs_dir())
    found = find_model(run, uri, runs_dir())
    evaluated = Evaluated.of(found.folder, found.run_id)
    return evaluated, evaluated.saved_config(uri)


def _with_task(
    words: Sequence[str], given: Sequence[Override], saved: dict[str, Any] | None, run: str
) -> dict[str, Any]:
    """The composed config; without a choice on the command line, with the task of the run's config."""
    from omegaconf import OmegaConf

    from plmft.config.compose import unknown_key

    if saved is None:
        if not any(o.key_or_group == "task" for o in given):
            raise InputError(f"run={run}: its config isn't there, so its task isn't known. Choose one: task=NAME.")
        return _plain(words)
    values = [o for o in given if o.key_or_group.startswith("task.")]
    config = _plain([word for word in words if not word.startswith("task.")])
    task = OmegaConf.create({"task": saved["task"]})
    errors = [error for o in values for error in unknown_key(o, task)]
    if errors:
        raise InputError("\n".join(errors))
    for override in values:
        OmegaConf.update(task, override.key_or_group, override.value(), merge=True)
    return config | OmegaConf.to_container(task)


def _from_run(config: dict[str, Any], saved: dict[str, Any] | None, given: set[str]) -> None:
    """What isn't on the command line and shapes the score: the seed, and how long sequences are read."""
    if saved is None:
        return
    if "seed" not in given:
        config["seed"] = saved["seed"]
    if "data.length_policy" not in given:
        config["data"]["length_policy"] = saved["data"]["length_policy"]


def _check_kind(config: dict[str, Any], evaluated: Evaluated, run: str) -> None:
    from plmft.config.compose import parts_of

    task = parts_of({"task": config["task"]})["task"]
    if task.kind != evaluated.kind:
        raise InputError(
            f"task={task.name} is {task.kind.replace('_', ' ')}; run={run} was tuned on {evaluated.task}, which is "
            f"{evaluated.kind.replace('_', ' ')}. Choose a task of that kind, or another run."
        )


def _untuned(config: dict[str, Any]) -> float | None:
    """A pretrained model as it is: the same job as plmft.train with tuning=none."""
    from rich.console import Console

    from plmft.config.compose import parts_of
    from plmft.models.head_spec import Perplexity, VariantScores

    parts = parts_of(config)
    if not isinstance(parts["task"].head, VariantScores | Perplexity):
        raise InputError(
            "No model is named. Give run=RUN_ID (python -m plmft.report runs lists them); or score a pretrained model "
            "as it is, with task=mutation_effects or task=perplexity."
        )
    from plmft.training.job import Job

    return Job(**parts, config=config).run(Console())


def _evaluate(config: dict[str, Any], evaluated: dict[str, Any], records: str) -> float | None:
    from pathlib import Path

    from rich.console import Console

    from plmft.config.compose import parts_of
    from plmft.training.evaluated import Evaluated
    from plmft.training.evaluating import Evaluation

    parts = parts_of({key: config[key] for key in ("task", "hardware", "tracking", "data", "limit", "seed")})
    kept = {key: value for key, value in config.items() if key not in OF_RUN} | {"run": evaluated, "records": records}
    model = Evaluated.of(Path(evaluated["folder"]), evaluated["run_id"])
    return Evaluation(model, **parts, records=records, config=kept).run(Console())


def _as_rank(rank: RankSide) -> float | None:
    config = rank.config()
    own = {key: config.pop(key) for key in (EVALUATED, "records")}
    return _evaluate(config, **own)


if __name__ == "__main__":
    main()
