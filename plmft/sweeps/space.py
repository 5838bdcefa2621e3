"""What a search may choose from, written in Hydra's syntax of sweeps; and whether it can be searched at all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from plmft import InputError
from plmft.config.check import TARGET, find_target
from plmft.models.direct_spec import DirectSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def check_searchable(config: Mapping[str, Any], overrides: Sequence[Override]) -> None:
    """Args: config: of a job. Raises: InputError: jobs can't be compared, or have no validation."""
    keys = {override.key_or_group for override in overrides if override.is_sweep_override()}
    if not keys:
        raise InputError("hydra/sweeper=optuna: nothing varies. Add, say, 'optim.lr=tag(log,interval(1e-5,1e-2))'.")
    if "seed" in keys:
        raise InputError("seed varies: a search would choose the luckiest. Give it one value.")
    if keys & {"task", "experiment"}:
        raise InputError("The task varies: scores of different tasks can't be compared. Search over one.")
    direct = issubclass(find_target(config["model"][TARGET]), DirectSpec)
    if direct or find_target(config["tuning"][TARGET]).name == "none" or config["task"].get("attention"):
        raise InputError("hydra/sweeper=optuna: a search watches validations, and these runs have none. Leave it out.")


def corners(overrides: Sequence[Override]) -> list[list[str]]:
    """Command lines in which each choice, and each end of an interval, comes once: what can be checked before."""
    choices = {override.get_key_element(): _ends(override) for override in overrides}
    longest = max((len(values) for values in choices.values()), default=1)
    return [[f"{key}={values[min(i, len(values) - 1)]}" for key, values in choices.items()] for i in range(longest)]


def _ends(override: Override) -> list[str]:
    if override.is_interval_sweep():
        return [repr(override.value().start), repr(override.value().end)]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def space_of(overrides: Sequence[Override]) -> dict[str, "BaseDistribution"]:
    """The values to choose from, by the key as the command line has it.

    interval(a,b): numbers; int(interval(a,b)): whole ones; tag(log,...): by their logarithms; range(...): by steps; all
    else is a choice.
    """
    return {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(sweep.start, int) else FloatDistribution
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    if override.is_range_sweep():
        values = list(sweep.range())
        kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
        return kind(min(values), max(values), step=abs(sweep.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
