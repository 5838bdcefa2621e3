"""Every command that settles a dispute composes and passes the check of its config: its options are there."""

import shlex
from collections.abc import Iterator

import pytest
from omegaconf import OmegaConf

from plmft.config.check import check
from plmft.config.compose import compose_config
from plmft.page.disputes import load

CONFIGS = {"plmft.train": "train", "plmft.benchmark": "benchmark"}


def jobs(command: str) -> Iterator[list[str]]:
    """The overrides of the first job of a command; of a sweep the first value of each list of choices."""
    words = shlex.split(command)
    sweep = "--multirun" in words
    yield [word.split(",")[0] if sweep and "[" not in word else word for word in words[3:] if word != "--multirun"]


@pytest.mark.slow
def test_the_commands_have_options_that_exist() -> None:
    commands = {one.command for one in load()}
    known = {command for command in commands if shlex.split(command)[2] in CONFIGS}
    assert len(known) > 30
    assert {shlex.split(command)[2] for command in commands - known} == {"plmft.report", "plmft.doctor"}
    for command in sorted(known):
        for overrides in jobs(command):
            check(OmegaConf.to_container(compose_config(overrides, CONFIGS[shlex.split(command)[2]]), resolve=True))


def test_a_sweep_gives_its_choices_with_commas_alone() -> None:
    """Hydra takes `model=a,b` as a sweep, and refuses it without --multirun."""
    for one in load():
        words = shlex.split(one.command)
        swept = [word for word in words if "," in word and "[" not in word]
        assert bool(swept) == ("--multirun" in words), one.command
