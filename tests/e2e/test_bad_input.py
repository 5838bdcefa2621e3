"""A mistake in the command line or in the data ends with one message, exit code 2, and nothing left behind."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import random_sequence
from tests.e2e.command import BRIGHTNESS, assert_nothing_left, brightness_rows, run_apart, statuses, write_brightness
from tests.e2e.powers import ordinary_user

RANDOM = ("model=esm2_tiny", "task=fluorescence")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=esm2_9m", ["model=esm2_9m: there is no such model", "Did you mean 'esm2_8m'?", "protbert"]),
        ("task=flourescence", ["task=flourescence: there is no such task", "Did you mean 'fluorescence'?"]),
        ("experiment=quick", ["experiment=quick: there is no such experiment", "quickstart"]),
        ("tuning=loraa", ["tuning=loraa", "Did you mean 'lora'?"]),
        ("learning_rate=1", ["the config has no key 'learning_rate'", "It takes: seed, batch_size"]),
        ("optim.lrs=1", ["optim has no key 'lrs'", "Did you mean 'lr'?"]),
        ("+tuning.ranks=3", ["tuning has no option 'ranks'", "Did you mean 'rank'?"]),
        ("optim.lr=-1", ["optim.lr=-1: must be greater than 0"]),
        ("optim.lr=fast", ["optim.lr=fast: must be a valid number"]),
        ("optim.lr=inf", ["optim.lr=inf: must be a finite number"]),
        ("optim.lr=nan", ["optim.lr=nan: must be a finite number"]),
        ("batch_size=0", ["batch_size=0: must be greater than or equal to 1"]),
        ("batch_size=1.5", ["batch_size=1.5: must be a valid integer"]),
        ("seed=4294967296", ["seed=4294967296: must be less than or equal to 4294967295"]),
        ("hardware.precision=fp7", ["hardware.precision=fp7", "'fp16' or 'bf16_weights'"]),
        ("hardware.tokens_per_batch=0", ["hardware.tokens_per_batch=0"]),
        ("limit.train=0", ["limit.train=0: must be greater than 0"]),
        ("data.length_policy=cut", ["data.length_policy=cut", "'refuse', 'crop' or 'window'"]),
        ("model.init=zeros", ["model.init=zeros", "'pretrained' or 'random'"]),
        ("model.heads=3", ["model.width=320", "model.heads=3"]),
        ("tracking.uri=ftp://x", ["tracking.uri=ftp://x is no MLflow store", "sqlite:///FILE"]),
        ("optim.lr=[1", ["The command line can't be read"]),
    ],
)
def test_a_word_or_value_that_is_not_known(command: Callable, runs: Path, override: str, words: list[str]) -> None:
    command(override).refused(*words)
    assert_nothing_left(runs)


def test_all_mistakes_are_told_at_once(runs: Path) -> None:
    ended = run_apart(runs, "optim.lr=-1", "batch_size=0", "tuning.rank=x")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 3)
    assert not runs.exists()


def test_an_option_of_hydra_may_have_a_value(runs: Path) -> None:
    out = run_apart(runs, "--cfg", "job", "--package", "tuning", "tuning=dora").succeeded()
    assert "_target_: plmft.models.tuning.DoRA" in out
    run_apart(runs, "--cfg", "job", "tunin=dora").refused("Did you mean 'tuning'?")


HEADER = "sequence,log_fluorescence\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["train.csv: the file is empty"]),
        (HEADER, ["no records in the train split"]),
        ("sequence;log_fluorescence\nMKV;1\n", ["no column primary or seq or sequence"]),
        ("sequence,score_of_mine\nMKV,1\n", ["no column log_fluorescence or label or score", "score_of_mine"]),
        (HEADER + "MKV,1.5\nMKL,nan\n", ["train.csv, line 3", "is nan. It must be finite"]),
        (HEADER + "MKV,-inf\n", ["train.csv, line 2", "is -inf. It must be finite"]),
        (HEADER + "MKV,\n", ["train.csv, line 2: the target is missing"]),
        (HEADER + "MKV,bright\n", ["train.csv, line 2: the target 'bright' is not a number"]),
        (HEADER + "MKV\n", ["train.csv, line 2: fewer fields"]),
        (HEADER + ",1.5\n", ["train.csv, line 2: the sequence of 'train-0' is empty"]),
        (HEADER + "MK*V,1.5\n", ["line 2: '*' at position 3 of 'train-0' is not an amino acid", "Allowed: A"]),
        (HEADER + "mkv,1.5\n", ["line 2: 'm' at position 1", "upper case"]),
        (HEADER + "MK V,1.5\n", ["line 2: ' ' at position 3"]),
        (b"\xff\xfe\x00", ["not UTF-8 text"]),
    ],
)
def test_data_with_a_fault(command: Callable, runs: Path, data: Path, content: str | bytes, words: list[str]) -> None:
    (data / BRIGHTNESS / "train.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    command(*RANDOM).refused(*words)
    assert_nothing_left(runs)


JSON = [{"primary": "MKV", "log_fluorescence": [1.5]}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "fluorescence_valid.json.gz",
            gzip.compress(json.dumps(JSON * 50).encode(), mtime=0)[:-12],
            ["damaged or cut short"],
        ),
        ("fluorescence_valid.json.gz", b"<html>", ["damaged or cut short", "Get it again"]),
        ("fluorescence_valid.json", b'[{"primary": "MKV",', ["not valid JSON at line 1"]),
        ("fluorescence_valid.json", b'{"primary": "MKV"}', ["a JSON list of records is expected, not dict"]),
        ("fluorescence_valid.json", b"[7]", ["record 0: an object with sequence and target is expected"]),
        (
            "fluorescence_valid.json",
            b'[{"primary": "MKV", "log_fluorescence": [null]}]',
            ["record 0: the target is missing"],
        ),
        (
            "fluorescence_valid.json",
            b'[{"primary": "MKV", "log_fluorescence": NaN}]',
            ["record 0: the target of 'valid-0' is nan"],
        ),
        (
            "fluorescence_valid.json",
            b'[{"primary": 7, "log_fluorescence": 1}]',
            ["record 0: the sequence of 'valid-0'"],
        ),
    ],
)
def test_a_json_file_with_a_fault(
    command: Callable, runs: Path, data: Path, name: str, content: bytes, words: list[str]
) -> None:
    (data / BRIGHTNESS / name).write_bytes(content)  # found before valid.csv
    command(*RANDOM).refused(str(data / BRIGHTNESS / name), *words)
    assert_nothing_left(runs)


def test_a_folder_that_is_not_there(command: Callable, runs: Path, tmp_path: Path) -> None:
    command(*RANDOM, f"data.dir={tmp_path}/nowhere").refused("nowhere does not exist", "data.dir or PLMFT_DATA")
    (tmp_path / "file").touch()
    command(*RANDOM, f"data.dir={tmp_path}/file").refused("file is not a folder")
    command(*RANDOM, f"data.dir={tmp_path}/file/under").refused("does not exist")
    assert_nothing_left(runs)


def test_a_split_that_is_not_there(command: Callable, runs: Path, data: Path) -> None:
    (data / BRIGHTNESS / "test.csv").unlink()
    command(*RANDOM).refused("holds none of fluorescence_test.json.gz", "test.csv")
    assert_nothing_left(runs)


def test_data_that_can_not_be_read(command: Callable, runs: Path, data: Path) -> None:
    file = data / BRIGHTNESS / "valid.csv"
    with ordinary_user():
        file.chmod(0)
        command(*RANDOM).refused(str(file), "can't be read (Permission denied)")
        (data / BRIGHTNESS).chmod(0)
        command(*RANDOM).refused(str(data), "can't be read (Permission denied)")
        (data / BRIGHTNESS).chmod(0o700)
    assert_nothing_left(runs)


def test_a_file_that_breaks_off_while_it_is_read(command: Callable, runs: Path, data: Path) -> None:
    file = data / BRIGHTNESS / "train.csv"
    file.unlink()
    file.symlink_to("/proc/self/mem")  # reading its first byte is an input/output error, for every user
    command(*RANDOM).refused(str(file), "can't be read (Input/output error)")
    assert_nothing_left(runs)


@pytest.mark.parametrize("model", ["esm2_tiny", "esm1b model.init=random model.layers=1"])
def test_a_sequence_longer_than_the_context(command: Callable, runs: Path, data: Path, rng, model: str) -> None:
    rows = [*brightness_rows(rng, 3), (random_sequence(rng, 1023), 2.0)]
    write_brightness(data, {"test": rows})
    ended = command(f"model={model.split()[0]}", *model.split()[1:], "task=fluorescence")
    ended.refused("test.csv, line 5: test-3 has 1023 residues, but esm", "takes 1022", "test 1", "length_policy=crop")
    assert_nothing_left(runs)


def test_a_sequence_as_long_as_the_context(command: Callable, store: Path, data: Path, rng) -> None:
    write_brightness(data, {"test": [*brightness_rows(rng, 3), (random_sequence(rng, 1022), 2.0)]})
    command(*RANDOM, "optim.max_steps=1").succeeded()
    assert statuses(store) == ["FINISHED"]


@pytest.mark.slow
def test_data_with_a_fault_in_a_process_of_its_own(runs: Path, data: Path) -> None:
    """Nothing but the message reaches stderr, no warning of any library either."""
    (data / BRIGHTNESS / "train.csv").write_text(HEADER + "MKV,nan\n")
    run_apart(runs, *RANDOM, PLMFT_DATA=str(data)).refused("train.csv, line 2", "nan")
    assert_nothing_left(runs)
