"""What an embedding job is asked for: mistakes are told in one message, by the names that were typed."""

from dataclasses import replace

import pytest

from plmft import InputError
from plmft.embeddings.choices import Choices, Request, read_request
from plmft.inference.sequences import Columns

GIVEN = ["input=in.fasta", "output=out", "model=esm2_tiny"]


@pytest.fixture(scope="module")
def request_() -> Request:
    return read_request(["input=a=b,{c}.fasta", "output=o{1}/x.H5", "layers=[0,-1]", "columns.id=null", "seed=3"])


def test_paths_are_taken_as_they_stand(request_: Request) -> None:
    request = request_
    assert (request.input, request.output) == ("a=b,{c}.fasta", "o{1}/x.H5")
    assert request.is_file and request.format_name == "h5" and request.choices.columns.id is None
    assert list(request.choices.layers) == [0, -1] and request.seed == 3


@pytest.mark.parametrize(
    "words, told",
    [
        (["layer=[1]"], "Did you mean 'layers'"),
        (["pooling=men"], "pooling=men: .*Did you mean 'mean'"),
        (["--now"], "no such option"),
        (["task=contacts"], "task=contacts: there is no such option"),
        (["chunk=0"], "chunk=0: "),
        (["model=1a2b3c4d"], "model=1a2b3c4d: .* give run=1a2b3c4d"),
    ],
)
def test_words_that_are_no_options(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        read_request([*GIVEN, *words])
    assert "embed." not in str(error.value)


def test_what_must_be_given() -> None:
    with pytest.raises(InputError, match="output is not set"):
        read_request(["input=in.fasta"])


@pytest.mark.parametrize(
    "output, options, told",
    [
        ("x.csv", {}, "not written as .csv"),
        ("x.npy", {}, "format=npy makes NumPy"),
        ("x.h5", {"format": "parquet"}, "says h5, and format=parquet"),
        ("x.h5", {"shard": "1/2"}, "share a folder"),
    ],
)
def test_outputs_that_can_not_be(request_: Request, output: str, options: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(request_, output=output, choices=Choices(Columns(), **options))


def test_one_process_embeds(request_: Request) -> None:
    with pytest.raises(InputError, match="shard=1/N"):
        replace(request_, hardware=replace(request_.hardware, devices=2, strategy="ddp"))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"per": "residue", "pooling": "mean"}, "one vector a sequence"),
        ({"pooling": "none"}, "per=residue"),
        ({"shard": "3/2"}, "numbered from 1/2"),
        ({"shard": "half"}, "2/8"),
    ],
)
def test_options_that_exclude_each_other(options: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Choices(Columns(), **options)


def test_parts_hold_fewer_sequences_where_vectors_are_many() -> None:
    pooled, residues = Choices(Columns()), Choices(Columns(), per="residue")
    assert pooled.part_size(1280) == 1024 and residues.part_size(1280) == 256 and residues.part_size(10**7) == 16
    assert Choices(Columns(), chunk=7, per="residue").part_size(1280) == 7
