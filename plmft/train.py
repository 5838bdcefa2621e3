"""Fine-tune one protein language model on one task; accuracy and cost end up side by side.

    python -m plmft.train model=esm2_8m task=fluorescence
    python -m plmft.train experiment=quickstart

Nothing heavy is imported before the command line and the config have been checked.
"""

import os
import sys
from contextlib import nullcontext
from typing import Any

from plmft.training.interrupts import end_at_once

if __name__ == "__main__":
    end_at_once()

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from plmft.config.check import check
from plmft.config.compose import CONFIG, check_command_line, config_folder, parts_of
from plmft.efficiency.allocator import bound_kernel_caches
from plmft.ending import ending
from plmft.sweeps.jobs import SWEEP, given, plain, run_noted
from plmft.training.interrupts import nothing_open, terminate_as_interrupt
from plmft.training.launching import RankSide, launch, starts_ranks
from plmft.training.slurm import leave


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=CONFIG)
def run(config: DictConfig) -> float | None:
    """One job: check the config, then train. Returns the primary metric on the test split."""
    if SWEEP in os.environ:
        return run_noted(plain(config), _job)
    with ending(code=leave):  # Hydra would add a traceback
        return _job(plain(config))


def _job(config: dict[str, Any]) -> float | None:
    check(config)
    if starts_ranks(config["hardware"]):
        return launch(config)
    return _run_job(config)


def _run_job(config: dict[str, Any]) -> float | None:
    from rich.console import Console

    with nullcontext() if SWEEP in os.environ else nothing_open():  # how a job of a sweep ends is noted
        from plmft.training.job import Job

    return Job(**parts_of(config), config=config).run(Console())


def main() -> None:
    """The command."""
    bound_kernel_caches()
    rank = RankSide.find()
    if rank is not None:
        terminate_as_interrupt()
        return rank.work(lambda: _run_job(rank.config()))
    with ending(code=leave):
        terminate_as_interrupt()
        config = given()
        if config is not None:
            RankSide.end_with_parent()
            run_noted(config, _job)
        elif any(word.partition("=")[0] == "--from-run" for word in sys.argv[1:]):
            from plmft.tracking.from_run import composed

            _job(composed(sys.argv[1:]))
        else:
            check_command_line(get_args_parser().parse_known_args()[0].overrides)
            run()


if __name__ == "__main__":
    main()
