"""From what a task's files held to the records of a run: checked, limited, and made to fit the model's context."""

from plmft import InputError
from plmft.data.options import Data, Limit
from plmft.data.records import DataSet, build_dataset, fit_to_context, limit
from plmft.data.task import Loaded, Task


def prepare(
    task: Task, loaded: Loaded, data: Data, limits: Limit, *, context: int | None, model: str, seed: int
) -> DataSet:
    """The data set as a run uses it.

    Args: task: with the classes that the data have. context: residues that the model takes; None: any number.
    Raises: InputError: a record that breaks a rule, or a length policy that the task can't have.
    """
    if task.kind == "contacts" and data.length_policy == "window":
        raise InputError("data.length_policy=window: contacts reach across windows. Set refuse or crop.")
    if task.kind == "variant_scoring" and data.length_policy == "crop":
        raise InputError("data.length_policy=crop: it would cut off mutated positions. Set window or refuse.")
    whole = build_dataset(
        task.name, task.kind, loaded.records, source=loaded.source, n_classes=len(task.classes), needs=task.needs
    )
    wanted = {"train": limits.train, "valid": limits.valid, "test": limits.test}
    return fit_to_context(limit(whole, wanted, seed), context, data.length_policy, model)
