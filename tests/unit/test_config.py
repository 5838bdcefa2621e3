"""A mistake on the command line or in a file ends with the key, the value, what is allowed and the nearest spelling."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plmft import InputError
from plmft.config.check import check
from plmft.config.compose import check_command_line, compose_config, config_folder


def compose_and_check(*overrides: str) -> dict:
    config = compose_config(list(overrides))
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    check(plain)
    return plain


def choices(group: str) -> list[str]:
    found = sorted(file.stem for file in (config_folder() / group).glob("*.yaml"))
    assert found, f"no choices in conf/{group}"
    return found


@pytest.mark.parametrize("group", ["model", "task", "tuning", "optim", "hardware", "tracking", "experiment"])
def test_every_choice_composes_and_passes(group: str) -> None:
    for choice in choices(group):
        compose_and_check("tuning=full", f"{group}={choice}")


def test_every_file_says_how_it_is_used() -> None:
    for file in config_folder().glob("*/*.yaml"):
        usage = f"{file.parent.name}={file.stem}"
        head = file.read_text().split("\n_target_")[0].split("\ndefaults")[0]
        assert usage in head, f"{file}: no usage line with {usage}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=esm2_9m", "model=esm2_9m: there is no such model. Did you mean 'esm2_8m'?"),
        ("task=fluoresence", "Did you mean 'fluorescence'?"),
        ("tuning=lora,fullest", "tuning=fullest: there is no such tuning. Did you mean 'full'?"),
        ("tuning.ranks=16", "tuning has no key 'ranks'. Did you mean 'rank'? It takes: rank, alpha"),
        ("batchsize=3", "Did you mean 'batch_size'?"),
        ("task.head.poolin=mean", "task.head has no key 'poolin'. Did you mean 'pooling'?"),
        ("seed.value=3", "seed has no key 'value'"),
        ("model=[", "can't be read"),
    ],
)
def test_unknown_words_are_told_with_the_nearest(override: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        check_command_line([override])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=-1", "optim.lr=-1: must be greater than 0"),
        ("batch_size=0", "batch_size=0: must be greater than or equal to 1"),
        ("batch_size=true", "batch_size=True: must be a valid integer"),
        ("seed=-1", "seed=-1"),
        ("hardware.precision=fp7", "hardware.precision=fp7: must be 'auto', 'bf16' or 'fp32'"),
        ("optim.epochs=1.5", "must be a valid integer"),
        ("optim.lr='1e-3'", "must be a valid number"),
        ("data.length_policy=croped", "Did you mean 'crop'?"),
        ("model.layers=0", "model.layers=0"),
        ("model.init=randm", "Did you mean 'random'?"),
        ("tuning.targets=[]", "tuning.targets=()"),
        ("tuning.targets=[attention,head]", "must be 'attention' or 'feedforward'"),
        ("limit.train=0", "limit.train=0"),
        ("task.head.dropout=1", "must be less than 1"),
        ("+tuning.ranks=16", "tuning has no option 'ranks'. Did you mean 'rank'?"),
        ("+anything=16", "anything=16: there is no such key"),
        ("~optim.epochs", "optim.epochs is missing"),
        ("model=onehot_cnn", "Set tuning=full"),
        ("batch_size=1", "task.head.normalize=false"),
        ("tuning._target_=os.system", "only parts of plmft"),
        ("tuning._target_=plmft.models.tuning.Lora", "not found"),
    ],
)
def test_wrong_values_are_told(override: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        compose_and_check(override)
    assert words in str(error.value)


def test_all_errors_are_told_together() -> None:
    with pytest.raises(InputError) as error:
        compose_and_check("optim.lr=-1", "batch_size=0", "tuning.rank=x")
    assert len(str(error.value).splitlines()) == 3


def test_checking_imports_nothing_heavy() -> None:
    """A config error within a second needs this: no torch, transformers, mlflow or lightning before the check."""
    code = (
        "import sys\nsys.argv = ['train', 'optim.lr=-1']\n"
        "import plmft.train\n"
        "try: plmft.train.main()\nexcept SystemExit as e: assert e.code == 2, e.code\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'pytorch_lightning', 'pandas', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "plmft: optim.lr=-1: must be greater than 0."
