"""The words of predict's and embed's command lines: some as they stand, the others for Hydra, all checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plmft import InputError


def other_word(word: str, known: Sequence[str]) -> str:
    """' Give model=...' for run=..., where a command names a tuned model by model=; else ''."""
    key, _, value = word.partition("=")
    if key == "run" and "model" in known and "run" not in known:
        return f" Here model= names a run or a tuned model's folder: give model={value}."
    return ""


def check_model(words: Sequence[str]) -> None:
    """Of a command where model= chooses an architecture, and run= a tuned model.

    Raises: InputError: model= names no architecture; it says that run= may be meant.
    """
    from plmft.config.check import closest
    from plmft.config.compose import config_folder

    known = sorted(file.stem for file in (config_folder() / "model").glob("*.yaml"))
    for word in words:
        key, _, value = word.partition("=")
        value = value.strip("'\"")
        if key == "model" and value not in (*known, "", "null") and "," not in value:
            raise InputError(
                f"model={value}: there is no such architecture.{closest(value, known)} If it is a run or a tuned "
                f"model's folder, give run={value}; architectures are {', '.join(known)}."
            )


def check_alone(run: str, words: Sequence[str], brought: Sequence[str]) -> None:
    """Of a command that names a tuned model. Raises: InputError: a part that `brought` names is chosen beside it."""
    for word in words:
        if word.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0] in brought:
            raise InputError(f"{word}: run={run} brings its own model and tuning. Leave one of them out.")


@dataclass(frozen=True)
class Grammar:
    """What a command takes.

    Args:
        config: conf/<config>.yaml; its part of the same name holds the command's own options, typed without a prefix.
        own: these options. groups: other parts that it takes.
        required, optional: taken as they stand: Hydra would read much in paths, and some run ids, as its own.
    """

    config: str
    own: Sequence[str]
    groups: Sequence[str]
    required: Sequence[str]
    optional: Sequence[str] = ()

    def read(self, arguments: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
        """The words that stand as they are, by key; and the parts, made.

        Raises: InputError: an option that is unknown or missing, or a value that is not allowed.
        """
        literal, words = self._parted(arguments)
        absent = [key for key in self.required if not literal.get(key)]
        if absent:
            raise InputError(f"{absent[0]} is not set. Give {' '.join(f'{k}=...' for k in absent)}; --help tells more.")
        if "run" in self.optional:
            check_model(words)
            if literal.get("run"):
                check_alone(literal["run"], words, ("model",))
        return literal, self._composed(words)

    def _parted(self, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        from plmft.config.check import nearest

        as_it_stands = (*self.required, *self.optional)
        literal, words = {}, []
        for word in arguments:
            key, equals, value = word.partition("=")
            if key in as_it_stands and equals:
                literal[key] = value
                continue
            first = key.partition(".")[0]
            if not equals or first not in (*self.own, *self.groups):
                told = other_word(word, as_it_stands) if equals else " Options have the form key=value."
                near = "" if equals and told else nearest(first, (*as_it_stands, *self.own, *self.groups))
                raise InputError(f"{word}: there is no such option.{told}{near}")
            words.append(f"{self.config}.{word}" if first in self.own else word)
        return literal, words

    def _composed(self, words: list[str]) -> dict[str, Any]:
        from omegaconf import OmegaConf

        from plmft.config.check import check
        from plmft.config.compose import check_command_line, compose_config, parts_of

        try:
            check_command_line(words, self.config)
            plain = OmegaConf.to_container(compose_config(words, self.config), resolve=True)
            check(plain)
        except InputError as error:
            raise InputError(str(error).replace(f"{self.config}.", "")) from None  # as it was written
        return parts_of({name: plain[name] for name in (self.config, *self.groups)})
