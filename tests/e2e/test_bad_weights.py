"""Weights that can't be had, are others than the typed ones, or hold code: told in one message, never run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants as hub_settings
from safetensors.torch import load_file, save_file

from tests.e2e import checkpoints
from tests.e2e.command import TINY, assert_nothing_left, run_apart

DATA = TINY[1:]  # a small planted task


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache with nothing in it, and no network."""
    monkeypatch.setattr(hub_settings, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("model", ["esm2_8m", "esm2_15b", "esm1b", "protbert_bfd"])
def test_published_weights_without_a_network(command: Callable, runs: Path, empty_cache: Path, model: str) -> None:
    message = command(f"model={model}", *DATA).refused("model.path=FOLDER", str(empty_cache), "model.init=random")
    assert message.startswith(f"plmft: {model}: the weights of ")
    assert_nothing_left(runs)


def test_weights_that_nobody_published(command: Callable, runs: Path) -> None:
    ended = command(*TINY, "model.init=pretrained")
    ended.refused("esm2_tiny: no weights are published", "model.init=random", "model.path", "model.checkpoint")
    assert_nothing_left(runs)


def test_settings_that_exclude_each_other(command: Callable, runs: Path, tmp_path: Path) -> None:
    command("model=esm2_8m", *DATA, "model.init=random", f"model.path={tmp_path}").refused(
        f"model.path={tmp_path} and model.init=random exclude each other"
    )
    command("model=esm2_8m", *DATA, "model.path=a", "model.checkpoint=b").refused("model.path and model.checkpoint")
    command("model=onehot_cnn", *DATA).refused("tuning=lora", "Set tuning=full")
    command("model=onehot_cnn", "task=fluorescence", "tuning=full", "model.init=pretrained").refused("model.init")
    assert_nothing_left(runs)


def test_a_folder_that_holds_no_checkpoint(command: Callable, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    give = ("model=esm2_8m", *DATA, f"model.path={path}")
    command(*give).refused(f"model.path={path}: is no folder", "fair-esm file (.pt)")
    path.mkdir()
    command(*give).refused("has no config.json")
    (path / "config.json").write_text("{")
    command(*give).refused("has no model.safetensors")
    (path / "model.safetensors").write_bytes(b"")
    command(*give).refused("config.json can't be read as JSON")
    (path / "config.json").write_text("[]")
    command(*give).refused("config.json is no table of settings")
    command("model=protbert", *DATA, f"model.checkpoint={path}").refused("takes ESM-2 or ESM-1b", "model.path=FOLDER")
    command("model=esm2_8m", *DATA, f"model.checkpoint={path}").refused("there is no such file")
    assert_nothing_left(runs)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_a_checkpoint_of_another_size(command: Callable, runs: Path, tmp_path: Path, data: Path, family: str) -> None:
    choose = checkpoints.folder(tmp_path / "model", family)
    wrong = command(*choose, "task=fluorescence", "model.layers=3", "model.width=64")
    wrong.refused("layers is 3 for", "but 2 in it", "width is 64 for", "but 32 in it", "correct model.layers")
    command(*choose, "task=fluorescence", "model.parameters=7").refused("parameters is 7 for", "in it")
    assert_nothing_left(runs)


def test_random_weights_of_another_size(command: Callable, runs: Path) -> None:
    """Figures that disagree would make a run whose model never loads again."""
    command(*TINY, "model.layers=3").refused("parameters is 102208 for esm2_tiny, but ", "correct model.parameters")
    assert_nothing_left(runs)


def test_a_fair_esm_file_of_another_size(command: Callable, runs: Path, tmp_path: Path, data: Path) -> None:
    choose = checkpoints.fair_esm(tmp_path / "model.pt", "esm2")
    command(*choose, "task=fluorescence", "model.heads=2").refused("heads is 2 for", "but 4 in it")
    assert_nothing_left(runs)


def test_weights_that_are_cut_off(command: Callable, runs: Path, tmp_path: Path, data: Path) -> None:
    choose = checkpoints.folder(tmp_path / "model", "esm2")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    command(*choose, "task=fluorescence").refused(str(file), "can't be read", "cut off")
    assert_nothing_left(runs)


def test_weights_that_do_not_fit(command: Callable, runs: Path, tmp_path: Path, data: Path) -> None:
    choose = checkpoints.folder(tmp_path / "model", "esm2")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    weights["encoder.odd"] = weights.pop("encoder.emb_layer_norm_after.bias")
    save_file(weights, file, {"format": "pt"})
    command(*choose, "task=fluorescence").refused("missing: encoder.emb_layer_norm_after.bias", "surplus: encoder.odd")
    assert_nothing_left(runs)


def test_code_in_a_fair_esm_file_never_runs(command: Callable, runs: Path, tmp_path: Path, data: Path) -> None:
    file, marker = tmp_path / "model.pt", tmp_path / "marker"
    choose = checkpoints.fair_esm(file, "esm2")
    checkpoints.set_trap(file, marker)
    command(*choose, "task=fluorescence").refused("model.pt is refused, because it holds code", "safetensors")
    assert not marker.exists()
    assert_nothing_left(runs)
    assert checkpoints.springs(file, marker)


def trapped_folder(path: Path, marker: Path) -> list[str]:
    choose = checkpoints.folder(path, "esm2")
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    checkpoints.set_trap(path / "pytorch_model.bin", marker)
    return choose


def test_code_in_a_folder_never_runs(command: Callable, runs: Path, tmp_path: Path, data: Path) -> None:
    choose, marker = trapped_folder(tmp_path / "model", tmp_path / "marker"), tmp_path / "marker"
    command(*choose, "task=fluorescence").refused("pytorch_model.bin is refused, because it holds code")
    assert not marker.exists()
    assert_nothing_left(runs)
    assert checkpoints.springs(tmp_path / "model" / "pytorch_model.bin", marker)


@pytest.mark.slow
def test_code_never_runs_in_a_process_of_its_own(runs: Path, tmp_path: Path, data: Path) -> None:
    choose, marker = trapped_folder(tmp_path / "model", tmp_path / "marker"), tmp_path / "marker"
    run_apart(runs, *choose, "task=fluorescence", PLMFT_DATA=str(data)).refused("is refused, because it holds code")
    assert not marker.exists()
    assert_nothing_left(runs)
