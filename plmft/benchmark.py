"""Measure what a model costs, by a protocol that says what it holds fixed.

    python -m plmft.benchmark protocol=latency model=esm2_650m
    python -m plmft.benchmark protocol=memory model=esm2_8m protocol.lengths=[128,512] hardware.precision=bf16
    python -m plmft.benchmark --multirun protocol=latency model=esm2_8m,esm2_35m,protbert

Takes the options of plmft.train and those of the protocol (conf/protocol/<name>.yaml, docs/protocols.md). Rows are kept
as they come, in mlruns/work/<run>/rows.jsonl and rows.csv and in MLflow's experiment benchmark/<protocol>.
Nothing heavy is imported before the command line and the config have been checked.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from plmft.training.interrupts import end_at_once

if __name__ == "__main__":
    end_at_once()

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from plmft import InputError
from plmft.config.check import check, find_target
from plmft.config.compose import check_command_line, config_folder
from plmft.efficiency.allocator import bound_kernel_caches
from plmft.ending import ending, tell_mistake
from plmft.models.direct_spec import DirectSpec
from plmft.sweeps.jobs import first_line, plain
from plmft.tracking.lineage import mask
from plmft.training.interrupts import nothing_open, terminate_as_interrupt

CONFIG = "benchmark"


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=CONFIG)
def run(config: DictConfig) -> None:
    """One job."""
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with told(goes_on=several):
            measure(plain(config), several)
    except Failed as failure:
        from plmft.bench import multirun

        multirun.failed.append(str(failure))


def measure(config: dict[str, Any], several: bool = False) -> None:
    """Check the config, then measure. Raises: InputError: a user's mistake."""
    check(config)
    model = config["model"]
    if issubclass(find_target(model["_target_"]), DirectSpec):
        raise InputError(f"model={model.get('name')}: it has no backbone to measure. Choose another model.")
    from rich.console import Console

    with nullcontext() if several else nothing_open():
        from plmft.bench.job import protocol_name, run_protocol

    sweep = {"plmft.sweep": Path(HydraConfig.get().sweep.dir).name} if several else {}
    rows = run_protocol(config, Console(), sweep)
    if several:
        from plmft.bench import multirun

        shows = getattr(find_target(config["protocol"]["_target_"]), "shows", ())
        multirun.found.append((protocol_name(config), rows, shows))


class Failed(Exception):
    """A job of several that failed and was told."""


@contextmanager
def told(goes_on: bool = False) -> Iterator[None]:
    """End this process with one message and exit code; Hydra would add a traceback.

    Args: goes_on: raise Failed instead, since other jobs follow.
    """
    with ending("the rows measured so far are kept."):
        try:
            yield
        except InputError as error:
            if not goes_on:
                raise
            tell_mistake(error)
            raise Failed(mask(first_line(error))) from None


def help_text() -> str:
    """The docstring above, and each protocol with the first line of its file."""
    files = sorted((config_folder() / "protocol").glob("*.yaml"))
    lines = [f"    {file.stem:12} {file.read_text().splitlines()[0].lstrip('# ')}" for file in files]
    return "\n".join([__doc__, "Protocols:", *lines])


def as_text(word: str) -> str:
    """A run's id stays a text: Hydra would read the beginning of one as a number (12345678, 1234e5)."""
    key, _, value = word.partition("=")
    return f"{key}='{value}'" if key == "protocol.run" and re.fullmatch(r"\d[\de]*", value) else word


def main() -> None:
    """The command."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        with ending():
            print(help_text())
        return
    bound_kernel_caches()
    sys.argv[1:] = map(as_text, sys.argv[1:])
    with told():
        terminate_as_interrupt()
        check_command_line(get_args_parser().parse_known_args()[0].overrides, CONFIG)
        run()


if __name__ == "__main__":
    main()
