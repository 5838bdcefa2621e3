"""A mistake on the command line or in a file ends with the key, the value, what is allowed and the nearest spelling."""

import subprocess
import sys
from importlib.util import find_spec
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


def package_of(choice: str) -> str | None:
    """The optional package that a choice needs."""
    if "zero" in choice:
        return "deepspeed"
    return "bitsandbytes" if choice == "qlora" else None


@pytest.mark.parametrize("group", ["model", "task", "tuning", "optim", "hardware", "tracking", "experiment"])
def test_every_choice_composes_and_passes(group: str) -> None:
    for choice in choices(group):
        package, overrides = package_of(choice), ("tuning=full", f"{group}={choice}")
        if package is not None and find_spec(package) is None:
            with pytest.raises(InputError, match=f"pip install {package}"):
                compose_and_check(*overrides)
        else:
            compose_and_check(*overrides)


def test_every_file_says_how_it_is_used() -> None:
    for file in config_folder().glob("*/*.yaml"):
        usage = f"{file.parent.name}={file.stem}"
        head = file.read_text().split("\n_target_")[0].split("\ndefaults")[0]
        assert usage in head, f"{file}: no usage line with {usage}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hydra.output_subdir=.hydra", "hydra.output_subdir: Hydra's copy of the config would lie outside"),
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
        ("hardware.precision=fp7", "hardware.precision=fp7: must be 'auto', 'fp32', 'tf32', 'bf16', 'fp16'"),
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
        ("tuning.layers=7", "tuning.layers=7: esm2_8m has 6 layers"),
        ("optim.layer_decay=1.5", "must be less than or equal to 1"),
        ("tuning._target_=os.system", "only parts of plmft"),
        ("tuning._target_=plmft.models.tuning.Lora", "not found"),
    ],
)
def test_wrong_values_are_told(override: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        compose_and_check(override)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("tuning=last_layers", "tuning.layers=7"), "tuning.layers=7: esm2_8m has 6 layers"),
        (("model=onehot_cnn", "tuning=full", "optim.layer_decay=0.9"), "onehot_cnn has no pretrained layers"),
        (("model=onehot_cnn", "tuning=bias"), "tuning=bias: onehot_cnn has no pretrained weights"),
        (("hardware=cpu", "hardware.precision=tf32"), "hardware.precision=tf32: needs a GPU"),
        (("hardware=cpu", "hardware.precision=fp16"), "hardware.precision=fp16: needs a GPU"),
        (("model=onehot_cnn", "tuning=full", "hardware.gradient_checkpointing=true"), "onehot_cnn is no transformer"),
        (("tuning=qlora", "hardware=zero3"), "tuning=qlora: weights of four bits can't be sharded"),
    ],
)
def test_parts_that_do_not_go_together_are_told(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as error:
        compose_and_check(*overrides)
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
