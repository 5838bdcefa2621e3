"""PyTorch files give their tensors; nothing else in them is made, and no code in them runs."""

import pickle
from pathlib import Path

import pytest
import torch

from plmft import InputError
from plmft.models.pickles import read_pickle, read_tensors


class Evil:
    marker = Path("to be set")

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read(tmp_path, zipped):
    state = {"weight": torch.randn(3, 4), "bias": torch.randn(4).half()}
    torch.save(state, tmp_path / "file.bin", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "file.bin")
    assert list(found) == list(state) and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
def test_code_is_refused_and_never_run(tmp_path, monkeypatch, how):
    monkeypatch.setattr(Evil, "marker", tmp_path / "marker")
    file = tmp_path / "file.bin"
    if how == "bare":
        file.write_bytes(pickle.dumps({"weight": Evil()}))
    else:
        torch.save({"weight": Evil()}, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(InputError, match=r"file\.bin is refused, because it holds .*code.*nothing of it was run"):
        read_tensors(file)
    assert not Evil.marker.exists()
    pickle.loads(pickle.dumps(Evil()))  # the trap does spring where it is not refused
    assert Evil.marker.exists()


def test_only_a_safe_torch_reads_a_pickle(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "file.bin")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(InputError, match=r"PyTorch 2\.9\.1\+cu128 can be made to run code.*2\.10 or newer"):
        read_pickle(tmp_path / "file.bin")
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git1234567")
    assert read_pickle(tmp_path / "file.bin") == {}


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 no zip"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"can't be read as a PyTorch file|is refused"):
        read_pickle(tmp_path / "file.bin")


@pytest.mark.parametrize("saved", [[torch.ones(1)], {"epoch": 3}])
def test_something_else_than_a_state_dict_is_told(tmp_path, saved):
    torch.save(saved, tmp_path / "file.bin")
    with pytest.raises(InputError, match="is not a table of names and tensors"):
        read_tensors(tmp_path / "file.bin")
