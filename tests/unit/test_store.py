"""Columns in a file = columns in memory, whoever writes at once, dies, fills the disk or damages the file."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from plmft import InputError
from plmft.data.encoding import Columns
from plmft.data.packing import EncodedSplit
from plmft.data.records import IGNORE, Kind, Record
from plmft.data.store import StoredArrays, cached_arrays, write_arrays
from plmft.data.stored_records import StoredRecords
from plmft.models.tokenizer import ESM, ONEHOT, PROTBERT, Tokenizer
from tests.e2e.test_bad_place import small_disk
from tests.unit.any_kind import TARGETS, assert_equal_batches, made


def by_hand(records: list[Record], tokenizer: Tokenizer, kind: Kind, index: list[int]) -> dict[str, list]:
    """What a batch must hold, token by token."""
    found: dict[str, list] = {"tokens": [], "positions": [], "is_residue": [], "targets": [], "lengths": []}
    for record in (records[i] for i in index):
        by_token = kind in ("residue_classification", "contacts")
        if not by_token:
            found["targets"].append(0.0 if record.target is None else record.target)
        for sequence in record.sequences:
            ids = [tokenizer.encode(letter)[len(tokenizer.prefix)] for letter in sequence]
            ids = [*tokenizer.prefix, *ids, *tokenizer.suffix]
            found["tokens"] += ids
            found["positions"] += range(len(ids))
            inside = range(len(tokenizer.prefix), len(tokenizer.prefix) + len(sequence))
            found["is_residue"] += [place in inside for place in range(len(ids))]
            found["lengths"].append(len(ids))
            if by_token:
                none = IGNORE if kind == "residue_classification" else [np.nan] * 3
                after = len(ids) - inside.stop
                found["targets"] += [none] * inside.start + [*record.target] + [none] * after
    return found


@pytest.mark.parametrize("tokenizer", [ESM, PROTBERT, ONEHOT], ids=lambda t: t.name)
@pytest.mark.parametrize("kind", TARGETS)
def test_stored_and_in_memory_hold_what_is_worked_out_by_hand(kind: Kind, tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = made(kind, [1, 9, 40, 7, 7, 23])
    held = EncodedSplit(records, tokenizer, kind)
    stored = EncodedSplit(records, tokenizer, kind, tmp_path)
    again = EncodedSplit(StoredRecords(records, tmp_path), tokenizer, kind, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    for index in ([0, 1, 2, 3, 4, 5], [4], [5, 0, 5]):
        wanted = by_hand(records, tokenizer, kind, index)
        batch = held.pack(np.array(index))
        for name in ("tokens", "positions", "is_residue", "targets"):
            found = getattr(batch, name).numpy()
            np.testing.assert_array_equal(found, np.array(wanted[name]).astype(found.dtype))
        assert list(batch.lengths) == wanted["lengths"]
        assert batch.cu_seqlens.tolist() == [0, *np.cumsum(wanted["lengths"])]
        assert_equal_batches(stored.pack(np.array(index)), batch)
        assert_equal_batches(again.pack(np.array(index)), batch)
    np.testing.assert_array_equal(stored.lengths, held.lengths)
    np.testing.assert_array_equal(stored.target_counts, held.target_counts)
    step, other = held.step(np.array([3, 1, 2]), 50), stored.step(np.array([3, 1, 2]), 50)
    assert step.targets == other.targets and len(step.micro) == len(other.micro)


def key(records: list[Record], tokenizer: Tokenizer = ESM, kind: Kind = "residue_classification") -> str:
    return Columns(records, tokenizer, kind).key


def test_the_same_records_of_another_file_have_the_same_key_and_nothing_else_has() -> None:
    records = made("residue_classification", [5, 8, 13])
    elsewhere = [replace(r, id=f"other-{r.id}", where="another file", split="valid") for r in records]
    assert key(records) == key(elsewhere)
    label = records[1].target.copy()
    label[3] = 1 - label[3] if label[3] in (0, 1) else 0
    letter = "A" if records[1].sequence[0] != "A" else "C"
    longer = replace(records[0], sequence=records[0].sequence + "A", target=np.append(records[0].target, 0))
    changed = {
        key([records[0], replace(records[1], target=label), records[2]]),
        key([records[0], replace(records[1], sequence=letter + records[1].sequence[1:]), records[2]]),
        key([longer, *records[1:]]),
        key([records[1], records[0], records[2]]),
        key(records[:2]),
        key(records, PROTBERT),
        key(records, replace(ESM, vocabulary=(*ESM.vocabulary[:5], "X", *ESM.vocabulary[6:]))),
        key([replace(r, target=None) for r in records], kind="masked_lm"),
    }
    assert len(changed) == 8 and key(records) not in changed
    pair = replace(records[0], sequence="AC", partner="DE", target=0)
    one = replace(pair, sequence="ACD", partner="E")
    assert key([pair], kind="pair_classification") != key([one], kind="pair_classification")


def test_a_number_that_differs_in_the_last_bit_has_another_key() -> None:
    record = made("sequence_regression", [5])[0]
    near = replace(record, target=float(np.nextafter(np.float32(record.target), np.float32(9))))
    assert key([record], kind="sequence_regression") != key([near], kind="sequence_regression")


def test_other_programs_can_read_the_file(tmp_path: Path) -> None:
    records = made("contacts", [9, 30])
    held = EncodedSplit(records, ESM, "contacts")
    EncodedSplit(records, ESM, "contacts", tmp_path)
    (file,) = tmp_path.iterdir()
    found = load_file(file)
    assert found["tokens"].tolist() == held.pack(np.arange(2)).tokens.tolist()
    np.testing.assert_array_equal(found["targets"], held.pack(np.arange(2)).targets.numpy())


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "header", "number", "unsummed", "length", "bit", "text"])
def test_a_damaged_file_is_noticed_and_written_anew(damage: str, tmp_path: Path) -> None:
    records = made("residue_classification", [40, 60])
    whole = EncodedSplit(records, ESM, "residue_classification", tmp_path).pack(np.arange(2))
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    middle = len(sound) - 60
    damaged = {
        "empty": b"",
        "cut": sound[:-1],
        "longer": sound + b"0",
        "header": sound[:20] + b"}" + sound[21:],
        "number": (8).to_bytes(8, "little") + b"12345678",
        "unsummed": sound.replace(b'"tokens"', b'"tokenz"', 1),
        "length": b"\xff" * 8 + sound[8:],
        "bit": sound[:middle] + bytes([sound[middle] ^ 4]) + sound[middle + 1 :],
        "text": b"<html>not found</html>" * 99,
    }
    file.write_bytes(damaged[damage])
    assert_equal_batches(EncodedSplit(records, ESM, "residue_classification", tmp_path).pack(np.arange(2)), whole)
    assert file.read_bytes() == sound and list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_sound_is_not_written_again(tmp_path: Path) -> None:
    records = made("sequence_regression", [9])
    EncodedSplit(records, ESM, "sequence_regression", tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat()
    EncodedSplit(records, ESM, "sequence_regression", tmp_path)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_may_be_removed_while_it_is_used(tmp_path: Path) -> None:
    records = made("sequence_regression", [9, 12])
    split = EncodedSplit(records, ESM, "sequence_regression", tmp_path)
    (file,) = tmp_path.iterdir()
    file.unlink()
    assert_equal_batches(split.pack(np.arange(2)), EncodedSplit(records, ESM, "sequence_regression").pack(np.arange(2)))


WRITER = """
import sys, time, numpy as np
from pathlib import Path
from plmft.data.store import cached_arrays
folder, start, pause = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
def chunks():
    for part in range(50):
        yield {"a": np.arange(part * 1000, (part + 1) * 1000)}
        time.sleep(pause)
time.sleep(max(0, start - time.time()))
found = cached_arrays(folder, "key", {"a": (np.dtype(np.int64), (50_000,))}, chunks())
assert (found["a"] == np.arange(50_000)).all()
print("done")
"""


def writer(folder: Path, start: float, pause: float) -> subprocess.Popen:
    arguments = [sys.executable, "-c", WRITER, str(folder), str(start), str(pause)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_writers_at_once_and_one_that_is_killed(tmp_path: Path) -> None:
    start = time.time() + 1.5
    killed, *others = (writer(tmp_path, start, pause) for pause in (3600, 0.01, 0.01, 0.005))
    assert [other.communicate(timeout=60)[0] for other in others] == ["done\n"] * 3
    while not (parts := list(tmp_path.glob(".*.part"))):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    (part,) = parts
    assert sorted(tmp_path.iterdir()) == sorted([part, tmp_path / "key.safetensors"])
    shapes = {"a": (np.dtype(np.int64), (2,))}
    cached_arrays(tmp_path, "another", shapes, [{"a": np.arange(2)}])
    assert part.exists()  # its writer might still be at work
    os.utime(part, (0, 0))
    found = cached_arrays(tmp_path, "a third", shapes, [{"a": np.arange(2)}])
    assert not part.exists() and found["a"].tolist() == [0, 1]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    records = made("residue_classification", [3000] * 40)
    with small_disk(tmp_path / "disk", 256) as disk:
        for made_there in (
            lambda: EncodedSplit(records, ESM, "residue_classification", disk / "tokens"),
            lambda: StoredRecords(records, disk / "records"),
        ):
            with pytest.raises(InputError, match=r"can't keep 0\.\d+ MB of data there \(No space left.*PLMFT_RUNS"):
                made_there()
        assert not [path for path in disk.rglob("*") if path.is_file()]
        few = records[:1]
        stored = EncodedSplit(few, ESM, "residue_classification", disk / "tokens")
        held = EncodedSplit(few, ESM, "residue_classification")
        assert_equal_batches(stored.pack(np.array([0])), held.pack(np.array([0])))


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    records = made("sequence_regression", [9])
    with pytest.raises(InputError, match=r"file/tokens: can't keep.*Not a directory"):
        EncodedSplit(records, ESM, "sequence_regression", tmp_path / "file" / "tokens")
    with pytest.raises(InputError, match=r"file: can't keep.*File exists"):
        StoredRecords(records, tmp_path / "file")


def test_chunks_that_do_not_fill_the_shapes_are_an_error(tmp_path: Path) -> None:
    shapes = {"a": (np.dtype(np.int64), (3,)), "b": (np.dtype(np.int8), (2,))}
    for chunk in ({"a": np.arange(3)}, {"a": np.arange(2), "b": np.zeros(2)}, {"a": np.arange(3), "b": np.zeros(3)}):
        with pytest.raises(ValueError, match="the chunks end at"), open(tmp_path / "file", "wb") as file:
            write_arrays(file, shapes, [chunk])
        with pytest.raises(ValueError), open(tmp_path / "file", "rb") as file:
            StoredArrays(file)


def test_letters_beyond_ascii_name_their_own_sequence(tmp_path: Path) -> None:
    records = [Record("a", "ACD", 0.0, "train"), Record("b", "ACΩ", 0.0, "train")]
    for folder in (None, tmp_path):
        with pytest.raises(InputError, match="'Ω' at position 3 of ACΩ"):
            EncodedSplit(records, ESM, "sequence_regression", folder)
    assert not list(tmp_path.iterdir())
