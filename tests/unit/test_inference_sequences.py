"""Sequences from files of every form: what is handed on, what is rejected with its place, what ends with a message."""

import bz2
import gzip
import io
import lzma
import os
import re
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.records import AMINO_ACIDS
from plmft.inference import seen as seen_module
from plmft.inference.opening import Position
from plmft.inference.seen import Seen
from plmft.inference.sequences import LONGEST, Columns, Given, Rejected, read_sequences, too_long

FASTA = b">a first\nMKV\nLA\n>b\nACD\n"
AB = [("a", "MKVLA"), ("b", "ACD")]


def pairs(path, **options):
    return [(g.id, g.sequence) for g in read_sequences(str(path), **options) if isinstance(g, Given)]


def rejected(path, **options):
    return [(r.number, r.id, r.reason) for r in read_sequences(str(path), **options) if isinstance(r, Rejected)]


def zstd(raw):
    return pa.Codec("zstd").compress(raw, asbytes=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd], ids=lambda f: f.__name__)
def test_packed_files_are_known_by_their_bytes(tmp_path, pack):
    (tmp_path / "named_wrongly.txt").write_bytes(pack(FASTA))
    assert pairs(tmp_path / "named_wrongly.txt") == AB


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=lambda f: f.__name__)
def test_a_file_that_was_cut_short_is_told_after_what_stands_before(tmp_path, pack, rng):
    letters = "".join(rng.choice(list(AMINO_ACIDS), 60_000))
    whole = pack("".join(f">s{i}\n{letters[i * 60 : i * 60 + 60]}\n" for i in range(1000)).encode())
    (tmp_path / "cut").write_bytes(whole[: len(whole) - 20])
    found = []
    with pytest.raises(InputError, match=r"cut: damaged or cut short near line [\d,]+.*Get the file again"):
        found.extend(read_sequences(str(tmp_path / "cut")))
    assert all(g.sequence == letters[g.number * 60 : g.number * 60 + 60] for g in found)


def test_a_zstd_file_of_two_frames_and_one_that_was_cut(tmp_path):
    (tmp_path / "two").write_bytes(zstd(FASTA) + zstd(b">c\nMM\n"))
    assert pairs(tmp_path / "two") == [*AB, ("c", "MM")]
    (tmp_path / "cut").write_bytes(zstd(FASTA)[:-6])
    with pytest.raises(InputError, match="damaged or cut short"):
        list(read_sequences(str(tmp_path / "cut")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "nothing but empty lines"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"PK\x03\x04....", "a ZIP archive or an Excel workbook"),
        (b"\x89PNG\0\0", "not text"),
        (b"PAR1 is no Parquet", "no readable Parquet"),
        (b"MKVLA\n", "there is no column 'id'.*no FASTA"),
        (b"id,seq\na,MK\n", "there is no column 'sequence'. The columns are id, seq"),
        (b"id,sequence\n", "a header, but no rows"),
        (b"id,sequence\na,MK\nb\n", "line 3: 1 fields, but the header names 2"),
        (b"id,sequence,id\na,MK,a\n", "'id' stands over several columns"),
        (b'id,sequence\na,"MK\n', "line 2: .*Is a quote left open"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_ends_with_a_message(tmp_path, text, told):
    (tmp_path / "wrong").write_bytes(text)
    with pytest.raises(InputError, match=told):
        list(read_sequences(str(tmp_path / "wrong")))


def test_missing_files_and_folders_are_told_at_once(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_sequences(str(tmp_path / "none"))
    with pytest.raises(InputError, match="a folder"):
        read_sequences(str(tmp_path))


@pytest.mark.parametrize("named", [True, False])
def test_a_pipe_is_refused_and_nothing_is_taken_from_it(tmp_path, named):
    os.mkfifo(tmp_path / "fifo")
    ends = [os.open(tmp_path / "fifo", os.O_RDWR)] if named else list(os.pipe())
    try:
        os.write(ends[-1], FASTA)
        with pytest.raises(InputError, match=r"a pipe or a device, which can be read once.*input=-"):
            read_sequences(str(tmp_path / "fifo") if named else f"/dev/fd/{ends[0]}")
        assert os.read(ends[0], 100) == FASTA
    finally:
        for end in ends:
            os.close(end)


def test_what_is_wrong_with_one_sequence_is_rejected_with_its_place(tmp_path):
    file = tmp_path / "mixed.fa"
    file.write_bytes(
        b">a\nMKV\n>low\nmkv\n>stop\nMK*\n>gap\nM-K\n>\nMK\n>none\n>a\nMM\n>b\xff\nMK\n>x\nMKBXZUOJ\n>n\nM1K\n"
    )
    assert pairs(file) == [("a", "MKV"), ("x", "MKBXZUOJ")]
    found = {r.number: r for r in read_sequences(str(file)) if isinstance(r, Rejected)}
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7, 9]
    words = {
        1: "upper case",
        2: "'*' at position 3 .* stop",
        3: "gap",
        4: "no id",
        5: "empty",
        6: "stands before",
        7: "not UTF-8",
        9: "'1' at position 2",
    }
    for number, word in words.items():
        assert re.search(word, found[number].reason), found[number]
    assert found[1].place == f"{file}, line 3"
    assert found[7].id == "b\\xff"


def test_an_id_counts_as_used_only_where_its_sequence_was_taken(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nmk\n>a\nMK\n>a\nMM\n")
    assert pairs(tmp_path / "x.fa") == [("a", "MK")]


def test_a_genome_is_not_held(tmp_path):
    (tmp_path / "x.fa").write_text(">chromosome\n" + "ACGT" * 20 + "\n" + ("A" * 100_000 + "\n") * 12 + ">p\nMK\n")
    assert rejected(tmp_path / "x.fa") == [
        (0, "chromosome", f"more than {LONGEST:,} residues: no protein is that long")
    ]
    assert pairs(tmp_path / "x.fa") == [("p", "MK")]


@pytest.mark.parametrize("newline", ["\n", " \r\n"])
def test_line_ends_are_no_residues(tmp_path, newline):
    wrapped = {f"s{n}": newline.join("A" * min(60, n - at) for at in range(0, n, 60)) for n in (LONGEST, LONGEST + 1)}
    (tmp_path / "x.fa").write_text("".join(f">{name}\n{text}\n" for name, text in wrapped.items()))
    assert [(name, len(text)) for name, text in pairs(tmp_path / "x.fa")] == [(f"s{LONGEST}", LONGEST)]
    assert [number for number, *_ in rejected(tmp_path / "x.fa")] == [1]


def test_a_cell_may_be_as_long_as_a_sequence(tmp_path):
    (tmp_path / "x.csv").write_text(f"id,sequence\na,{'A' * LONGEST}\nb,{'A' * 3 * LONGEST}\nc,MK\n")
    assert [(name, len(text)) for name, text in pairs(tmp_path / "x.csv")] == [("a", LONGEST), ("c", 2)]
    assert rejected(tmp_path / "x.csv") == [(1, "b", f"more than {LONGEST:,} residues: no protein is that long")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_byte_order_marks(tmp_path, newline, encoding):
    (tmp_path / "x").write_bytes(FASTA.decode().replace("\n", newline).encode(encoding))
    assert pairs(tmp_path / "x") == AB
    (tmp_path / "t").write_bytes(newline.join(["id;sequence", "a;MKVLA", "b;ACD", ""]).encode(encoding))
    assert pairs(tmp_path / "t") == AB


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_by_any_delimiter_and_column_names(tmp_path, delimiter):
    file = tmp_path / "x.csv"
    file.write_text(
        "\n".join(delimiter.join(row) for row in (("what", "seq", "name"), ("1", "MKVLA", "a"), ("2", "ACD", "b")))
    )
    assert pairs(file, columns=Columns("name", "seq")) == AB
    assert pairs(file, columns=Columns(None, "seq")) == [("1", "MKVLA"), ("2", "ACD")]


def test_parquet_reads_columns_of_any_type_and_rejects_what_is_absent(tmp_path):
    file = tmp_path / "x.parquet"
    pd.DataFrame({"more": [0.0, 1.0, 2.0], "id": [7, 8, 9], "sequence": ["MK", None, "AC"]}).to_parquet(file)
    assert pairs(file) == [("7", "MK"), ("9", "AC")]
    assert [r.place for r in read_sequences(str(file)) if isinstance(r, Rejected)] == [f"{file}, row 2"]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="no readable Parquet"):
        list(read_sequences(str(file)))


@pytest.mark.parametrize("absent", ["id", "sequence", "partner"])
def test_parquet_without_a_column_is_told_so(tmp_path, absent):
    given = {"id": ["a"], "sequence": ["MK"], "partner": ["AC"]}
    pd.DataFrame(given).drop(columns=absent).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=rf"^\S+x.parquet: there is no column '{absent}'.* Set columns.{absent}=NAME"):
        read_sequences(str(tmp_path / "x.parquet"), columns=Columns(partner="partner"))


def test_pairs_are_not_looked_for_in_fasta(tmp_path):
    (tmp_path / "x.fa").write_bytes(FASTA)
    with pytest.raises(InputError, match=r"x.fa: the model takes pairs.* the columns id, seq and other, or name"):
        read_sequences(str(tmp_path / "x.fa"), columns=Columns("id", "seq", "other"))


def test_partners_are_read_and_checked(tmp_path):
    (tmp_path / "x.csv").write_text("id,sequence,partner\na,MK,AC\nb,MK,\n")
    items = list(read_sequences(str(tmp_path / "x.csv"), columns=Columns(partner="partner")))
    assert items[0] == Given(0, "a", "MK", "AC")
    assert items[1].reason == "the partner is empty"


def test_standard_input(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(FASTA)))))
    assert pairs("-") == AB
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"PAR1...."))))
    with pytest.raises(InputError, match="Parquet can't be read from standard input"):
        read_sequences("-")


def test_refused_by_a_model(tmp_path):
    (tmp_path / "x.fa").write_bytes(FASTA)
    assert rejected(tmp_path / "x.fa", refuse=too_long(3, "small")) == [(0, "a", "5 residues; small takes 3")]
    assert rejected(tmp_path / "x.fa", refuse=too_long(None, "any")) == []


def test_the_position_goes_from_the_start_to_the_end(tmp_path):
    (tmp_path / "x.fa").write_text("".join(f">s{i}\n{'ACDEFGHIKL' * 20}\n" for i in range(5000)))
    position, shares = Position(), []
    for given in read_sequences(str(tmp_path / "x.fa"), position=position):
        if given.number in (0, 2500, 4999):
            shares.append(position.share)
    assert shares[0] < 0.4 < shares[1] < 0.8 and shares[2] == 1.0


def test_the_position_is_known_whatever_becomes_of_the_readers_file(tmp_path):
    (tmp_path / "x.fa").write_bytes(FASTA)
    position, file = Position(), (tmp_path / "x.fa").open("rb", buffering=0)
    position.of(file)
    file.read(len(FASTA) // 2)
    file.close()  # by a thread of the reader's, while another one asks
    with (tmp_path / "other").open("wb"):  # may be given the same number
        assert position.share == len(FASTA) // 2 / len(FASTA)


@settings(max_examples=20, deadline=None)
@drawn(st.lists(st.integers(0, 60), max_size=150))
def test_seen_agrees_with_a_set(numbers):
    recent, seen_module.RECENT = seen_module.RECENT, 8
    try:
        seen, known = Seen(), set()
        for number in numbers:
            assert seen.add(f"id{number}") == (number in known)
            known.add(number)
    finally:
        seen_module.RECENT = recent


def test_seen_moves_an_id_a_few_times_however_many_there_are(monkeypatch):
    moved, concatenate = [], np.concatenate
    monkeypatch.setattr(seen_module, "RECENT", 8)
    monkeypatch.setattr(np, "concatenate", lambda arrays: moved.append(sum(map(len, arrays))) or concatenate(arrays))
    seen, shares = Seen(), []
    for number in range(1 << 14):
        assert not seen.add(f"id{number}")
        if number + 1 in (1 << 11, 1 << 14):
            shares.append(sum(moved) / (number + 1))
    assert shares[1] < 2 * shares[0]  # eight times as many
    assert all(seen.add(f"id{number}") for number in range(1 << 14))


@settings(max_examples=15, deadline=None)
@drawn(st.lists(st.text(AMINO_ACIDS, min_size=1, max_size=30), min_size=1, max_size=12), st.integers(1, 9))
def test_any_wrapping_of_lines_gives_the_same_sequences(tmp_path_factory, sequences, width):
    file = tmp_path_factory.mktemp("wrapped") / "x.fa"
    wrapped = ["\n".join(s[at : at + width] for at in range(0, len(s), width)) for s in sequences]
    file.write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(wrapped)))
    assert [sequence for _, sequence in pairs(file)] == sequences
