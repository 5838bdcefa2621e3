"""The embedding cache: what it gives is what the backbone computes, whoever wrote it and however that ended."""

import fcntl
import os
import resource
import signal
import time
from dataclasses import fields, replace
from multiprocessing import Process, get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from transformers import EsmConfig, EsmModel

from plmft import InputError
from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.data.records import Record
from plmft.models import embedding_cache, embedding_shards
from plmft.models.backbone import EsmBackbone
from plmft.models.embedded_split import EmbeddedSplit
from plmft.models.embedding import Embedder
from plmft.models.embedding_cache import EmbeddingCache, Sequences
from plmft.models.embedding_key import CacheKey, architecture_digest, weights_digest
from plmft.models.heads import mean_pool
from plmft.models.scratch import OneHotResNet
from plmft.models.windows import Windows
from tests.conftest import random_sequence
from tests.unit.networks import TOKENIZERS, backbone, records

KEY = CacheKey("w", "a", "t", "fp32", "residues", None, "float16")
ESM = TOKENIZERS["esm2"]
WIDTH = 8


class Counting(nn.Module):
    """A backbone that gives each token a vector of its own number and place, and counts the tokens it saw."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.passes, self.sequences, self.width = scale, 0, 0, WIDTH

    def forward(self, batch: PackedBatch) -> Tensor:
        self.passes += 1
        self.sequences += len(batch.lengths)
        place = batch.positions.float()[:, None] / 100 + torch.arange(WIDTH)
        return self.scale * (batch.tokens.float()[:, None] + place)


def split_of(made: list[Record], kind: str = "sequence_regression") -> EncodedSplit:
    return EncodedSplit(made, ESM, kind)


def regression(sequences: list[str]) -> list[Record]:
    return [Record(f"r{i}", sequence, float(i), "train") for i, sequence in enumerate(sequences)]


def fill(cache: EmbeddingCache, split: EncodedSplit, model: nn.Module, pool=None, windows=None, **options) -> int:
    options = {"tokens_per_batch": 64, **options}
    return cache.fill(split, Sequences.of(split), Embedder(model, windows, pool), **options)


def cached(cache: EmbeddingCache, split: EncodedSplit, pooled: bool = False) -> EmbeddedSplit:
    places = cache.find(Sequences.of(split))
    assert not places.missing.any()
    return EmbeddedSplit(split, cache, places, pooled=pooled)


def assert_as_computed(found: PackedBatch, wanted: Tensor) -> None:
    """Within float16's rounding: 2⁻¹¹ of a value, or half of its smallest step."""
    bound = wanted.abs() * 2**-11 + 2**-25 + 1e-5  # and fp32's own, which depends on what is packed together
    assert ((found.vectors.float() - wanted).abs() <= bound).all()


@pytest.fixture
def some(rng: np.random.Generator) -> EncodedSplit:
    return split_of(regression([random_sequence(rng, n) for n in (5, 30, 1, 17, 60, 5)]))


@pytest.mark.parametrize("kind", ["residue_classification", "pair_classification"])
@pytest.mark.parametrize("family", ["esm2", "esm1b", "bert", "onehot_cnn"])
def test_what_is_cached_is_what_is_computed(tmp_path: Path, family: str, kind: str, rng: np.random.Generator) -> None:
    model = backbone(family).eval()
    split = EncodedSplit(records(rng, [5, 30, 1, 17, 60, 5], kind), TOKENIZERS[family], kind)
    cache = EmbeddingCache(tmp_path, KEY)
    fill(cache, split, model)
    for index in ([0, 1, 2, 3, 4, 5], [4], [3, 0, 5]):
        batch = cached(cache, split).pack(np.array(index))
        plain = split.pack(np.array(index))
        with torch.no_grad():
            assert_as_computed(batch, model(plain))
        assert batch.lengths == plain.lengths and torch.equal(batch.targets, plain.targets)
        assert batch.vectors.dtype == torch.float16


def test_pooled_vectors_are_exact(tmp_path: Path, some: EncodedSplit) -> None:
    model, cache = backbone("esm2").eval(), EmbeddingCache(tmp_path, replace(KEY, stored="float32"))
    fill(cache, some, model, pool=mean_pool)
    split = cached(cache, some, pooled=True)
    batch = some.pack(np.arange(6))
    with torch.no_grad():
        wanted = mean_pool(model(batch), batch)
    torch.testing.assert_close(split.pack(np.arange(6)).vectors, wanted, rtol=1e-5, atol=1e-6)
    assert split.lengths.tolist() == [1] * 6  # a batch holds as many records as its budget, whatever their lengths
    step = split.step(np.array([5, 1, 3]), 64)
    assert len(step.micro) == 1 and step.targets == 3
    torch.testing.assert_close(step.micro[0].vectors, wanted[[5, 1, 3]], rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    budget=st.integers(1, 120),
    pairs=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_records_in_any_order_against_one_at_a_time(
    tmp_path: Path, lengths: list[int], budget: int, pairs: bool, seed: int
) -> None:
    """Against a loop over single sequences; the folder is shared by all examples, as by runs."""
    rng, model = np.random.default_rng(seed), Counting()
    made = records(rng, lengths, "pair_classification" if pairs else "sequence_regression")
    split = split_of(made, "pair_classification" if pairs else "sequence_regression")
    cache = EmbeddingCache(tmp_path, KEY)
    fill(cache, split, model, tokens_per_batch=budget)
    order = rng.permutation(len(made))[: 1 + len(made) // 2]
    sequences = [sequence for number in order for sequence in made[number].sequences]
    alone = [model(split_of(regression([sequence])).pack(np.array([0]))) for sequence in sequences]
    assert_as_computed(cached(cache, split).pack(order), torch.cat(alone))


def test_a_sequence_is_computed_once_whichever_split_has_it(tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = [random_sequence(rng, n) for n in (9, 4, 20, 4)]
    model, cache = Counting(), EmbeddingCache(tmp_path, KEY)
    assert fill(cache, split_of(regression([*sequences, *sequences[:2]])), model) == 4
    assert fill(cache, split_of(regression(sequences[::-1])), model) == 0
    more = random_sequence(rng, 12)
    assert fill(EmbeddingCache(tmp_path, KEY), split_of(regression([sequences[2], more])), model) == 1
    pair = [Record("p", more, 1, "test", partner=sequences[0]), Record("q", more, 0, "test", partner=more)]
    assert fill(EmbeddingCache(tmp_path, KEY), split_of(pair, "pair_classification"), model) == 0
    assert model.sequences == 5


def test_every_ingredient_of_the_key_names_another_folder() -> None:
    changed = {"windows": 100, "layout": 99} | {f.name: "other" for f in fields(CacheKey) if f.type is str}
    assert set(changed) == {f.name for f in fields(CacheKey)}
    digests = [KEY.digest, *(replace(KEY, **{name: value}).digest for name, value in changed.items())]
    assert len(set(digests)) == len(digests)
    assert replace(KEY).digest == KEY.digest


def test_any_weight_changes_the_digest_and_a_copy_does_not() -> None:
    model = backbone("esm2")
    digest = weights_digest(model)
    assert weights_digest(backbone("esm2")) == digest
    for name, tensor in model.state_dict().items():
        before = tensor.clone()
        tensor.view(-1)[-1] += 1
        assert weights_digest(model) != digest, name
        tensor.copy_(before)
    assert weights_digest(model) == digest
    assert weights_digest(model.to(torch.bfloat16)) != digest


def test_what_weights_do_not_tell_is_in_the_architecture() -> None:
    """As many weights of the same shapes, and yet other vectors."""

    def esm(**changes: object) -> EsmBackbone:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        usual = {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "position_embedding_type": "rotary"}
        return EsmBackbone(EsmModel(EsmConfig(**sizes | usual | changes), add_pooling_layer=False))

    variants = [esm(), esm(token_dropout=True), esm(layer_norm_eps=1e-3), esm(position_embedding_type="absolute")]
    narrow, wide = (OneHotResNet(21, channels=8, kernel=3, layers=1, dilation=n) for n in (1, 2))
    digests = [architecture_digest(model) for model in [*variants, narrow, wide]]
    assert len(set(digests)) == len(digests) and architecture_digest(esm()) == digests[0]


def test_windows_are_cached_as_they_are_read(tmp_path: Path, some: EncodedSplit) -> None:
    model, windows = backbone("esm2").eval(), Windows.of(12, ESM)
    cache = EmbeddingCache(tmp_path, replace(KEY, windows=12))
    fill(cache, some, model, windows=windows)
    batch = some.pack(np.arange(6))
    with torch.no_grad():
        assert_as_computed(cached(cache, some).pack(np.arange(6)), windows.read(model, batch))


def test_values_beyond_half_precision_are_kept_in_full(tmp_path: Path, some: EncodedSplit) -> None:
    """One sequence with large values is float32; the others stay in half precision, and batches may hold both."""

    class Steep(Counting):
        def forward(self, batch: PackedBatch) -> Tensor:
            long = (batch.cu_seqlens.diff() > 50)[batch.owner]
            return super().forward(batch) * torch.where(long, 1e5, 1.0)[:, None]

    model, cache = Steep(), EmbeddingCache(tmp_path, KEY)
    fill(cache, some, model)
    split, wanted = cached(cache, some), model(some.pack(np.arange(6)))
    assert wanted.abs().max() > 1e6
    found = split.pack(np.arange(6))
    assert found.vectors.dtype == torch.float32
    assert_as_computed(found, wanted)
    large = split.pack(np.array([4]))
    assert torch.equal(large.vectors, model(some.pack(np.array([4]))))
    assert split.pack(np.array([0, 1])).vectors.dtype == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path, some: EncodedSplit, value: float) -> None:
    with pytest.raises(InputError, match="The backbone gives NaN or infinity"):
        fill(EmbeddingCache(tmp_path, KEY), some, Counting(value))
    assert fill(EmbeddingCache(tmp_path, KEY), some, Counting()) == 6


def shards(cache: EmbeddingCache) -> list[Path]:
    return sorted(cache.folder.glob("*.safetensors"))


def test_other_programs_read_the_files(tmp_path: Path, some: EncodedSplit) -> None:
    cache = EmbeddingCache(tmp_path, KEY)
    fill(cache, some, Counting())
    (file,) = shards(cache)
    with safe_open(file, "pt") as opened:
        rows, vectors = opened.get_tensor("rows"), opened.get_tensor("vectors")
    assert sorted(rows.tolist()) == [3, 7, 7, 19, 32, 62]
    assert vectors.shape == (int(rows.sum()), WIDTH) and vectors.dtype == torch.float16
    assert cache.size == file.stat().st_size
    assert '"precision": "fp32"' in (cache.folder / "key.json").read_text()


@pytest.mark.parametrize("kept", [0, 7, 500, 1024, 2000, -1])
def test_a_shard_that_is_cut_off_is_made_again(tmp_path: Path, some: EncodedSplit, kept: int) -> None:
    fill(cache := EmbeddingCache(tmp_path, KEY), some, Counting())
    (file,) = shards(cache)
    file.write_bytes(file.read_bytes()[:kept])
    again = EmbeddingCache(tmp_path, KEY)
    assert again.broken == 1 and not shards(again)
    assert fill(again, some, Counting()) == 6
    assert_as_computed(cached(again, some).pack(np.arange(6)), Counting()(some.pack(np.arange(6))))


@pytest.mark.parametrize("place", [3, 30, 1100, 1500, -300, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, some: EncodedSplit, place: int) -> None:
    """In the length, the header, the vectors, the keys, the checksums."""
    fill(cache := EmbeddingCache(tmp_path, KEY), some, Counting())
    (file,) = shards(cache)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    again = EmbeddingCache(tmp_path, KEY)
    assert fill(again, some, Counting()) == 6 and again.broken == 1 and len(shards(again)) == 1
    assert_as_computed(cached(again, some).pack(np.arange(6)), Counting()(some.pack(np.arange(6))))


def test_a_shard_that_shrinks_while_it_is_read_is_an_error_not_a_crash(tmp_path: Path, some: EncodedSplit) -> None:
    fill(cache := EmbeddingCache(tmp_path, KEY), some, Counting())
    split = cached(cache, some)
    (file,) = shards(cache)
    with file.open("r+b") as opened:
        opened.truncate(1100)
    with pytest.raises(OSError, match="was cut off while it was read"):
        split.pack(np.arange(6))


def test_a_folder_removed_while_it_is_used_still_gives_its_vectors(tmp_path: Path, some: EncodedSplit) -> None:
    fill(cache := EmbeddingCache(tmp_path, KEY), some, Counting())
    split = cached(cache, some)
    for file in shards(cache):
        file.unlink()
    assert_as_computed(split.pack(np.arange(6)), Counting()(some.pack(np.arange(6))))


def test_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, some: EncodedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, sequences = EmbeddingCache(tmp_path, KEY), Sequences.of(some)
    usage = type("Usage", (), {"free": embedding_cache.SPARE_BYTES + 1000})
    monkeypatch.setattr(embedding_cache.shutil, "disk_usage", lambda folder: usage)
    cache.check_room([sequences], 1, pooled=True)
    with pytest.raises(OSError, match=r"GB of them, and 0\.256 GB free in"):
        cache.check_room([sequences], WIDTH, pooled=False)
    fill(cache, some, Counting())
    cache.check_room([sequences], WIDTH, pooled=False)  # nothing is missing, so none is needed


def test_a_full_disk_leaves_what_was_whole_and_nothing_else(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk; shards are small, so that some are whole before."""
    some = split_of(regression([random_sequence(rng, 40) for _ in range(30)]))
    cache, before = EmbeddingCache(tmp_path, KEY), resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(embedding_cache, "SHARD_BYTES", 4000)

    def passed(batch: PackedBatch) -> None:
        if len(shards(cache)) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    try:
        with pytest.raises(OSError):
            fill(cache, some, Counting(), passed=passed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(shards(cache)) == 3 and not list(cache.folder.glob("*.part"))
    again = EmbeddingCache(tmp_path, KEY)
    assert 0 < fill(again, some, Counting()) < 30 and again.broken == 0
    assert_as_computed(cached(again, some).pack(np.arange(30)), Counting()(some.pack(np.arange(30))))


def test_an_interrupted_writer_keeps_what_it_has_done(tmp_path: Path, some: EncodedSplit) -> None:
    def passed(batch: PackedBatch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(EmbeddingCache(tmp_path, KEY), some, Counting(), passed=passed)
    assert fill(EmbeddingCache(tmp_path, KEY), some, Counting()) == 5


def test_a_cache_that_can_not_be_written_can_be_read(tmp_path: Path, some: EncodedSplit) -> None:
    cache = EmbeddingCache(tmp_path, KEY)
    fill(cache, some, Counting())
    (cache.folder / "filling.lock").unlink()
    cache.folder.chmod(0o500)
    try:
        assert fill(EmbeddingCache(tmp_path, KEY), some, Counting()) == 0
        assert not (cache.folder / "filling.lock").exists()
    finally:
        cache.folder.chmod(0o700)


def test_ranks_compute_disjoint_shares(tmp_path: Path, rng: np.random.Generator) -> None:
    some = split_of(regression([random_sequence(rng, n) for n in range(1, 41)]))
    ranks = [EmbeddingCache(tmp_path, KEY) for _ in range(3)]
    counts = [fill(cache, some, Counting(), rank=rank, world=3) for rank, cache in enumerate(ranks)]
    assert sum(counts) == 40 and min(counts) > 3
    assert cached(ranks[2], some) and fill(EmbeddingCache(tmp_path, KEY), some, Counting()) == 0


def write_alone(folder: Path, name: str, split: EncodedSplit, pause: float, hang: int) -> None:
    """What a writing process does. Shards are small; in pass `hang` it hangs."""
    model = Counting()
    embedding_cache.SHARD_BYTES = 4000

    def passed(batch: PackedBatch) -> None:
        time.sleep(pause)
        if model.passes == hang:
            (folder / "hanging").touch()
            time.sleep(60)

    (folder / f"ready{name}").touch()
    wait_for(folder / "go")
    cache = EmbeddingCache(folder, KEY)
    count = fill(cache, split, model, passed=passed)
    assert_as_computed(cached(cache, split).pack(np.arange(30)), model(split.pack(np.arange(30))))
    (folder / f"told{name}").write_text(str(count))


def start_writer(folder: Path, name: str, split: EncodedSplit, pause: float = 0.0, hang: int = -1) -> Process:
    """A process of its own: forked, so that it need not import everything again."""
    writer = get_context("fork").Process(target=write_alone, args=(folder, name, split, pause, hang))
    writer.start()
    return writer


def wait_for(*files: Path) -> None:
    until = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < until, files
        time.sleep(0.02)


@pytest.fixture
def written(rng: np.random.Generator) -> EncodedSplit:
    """What the writers write."""
    return split_of(regression([random_sequence(rng, 40) for _ in range(30)]))


def test_two_processes_at_once_compute_everything_once(tmp_path: Path, written: EncodedSplit) -> None:
    writers = [start_writer(tmp_path, str(number), written, pause=0.03) for number in range(2)]
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    (tmp_path / "go").touch()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    told = sorted((tmp_path / f"told{number}").read_text() for number in range(2))
    assert told == ["0", "30"]


def test_who_waits_for_another_run_says_so(tmp_path: Path, written: EncodedSplit) -> None:
    cache, waits = EmbeddingCache(tmp_path, KEY), []
    with (cache.folder / "filling.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def waiting() -> None:
            waits.append(1)
            fcntl.flock(other, fcntl.LOCK_UN)

        assert fill(cache, written, Counting(), waiting=waiting) == 30 and waits == [1]
        fcntl.flock(other, fcntl.LOCK_EX)
        assert fill(cache, written, Counting(), waiting=waiting) == 0 and waits == [1]  # nothing to wait for


def test_a_killed_writer_leaves_a_sound_cache(tmp_path: Path, written: EncodedSplit) -> None:
    writer = start_writer(tmp_path, "0", written, hang=13)
    (tmp_path / "go").touch()
    wait_for(tmp_path / "hanging")
    living = EmbeddingCache(tmp_path, KEY)
    (part,) = living.folder.glob("*.part")
    os.utime(part, (0, 0))  # old, and yet its writer lives
    embedding_shards.clear_parts(living.folder)
    assert part.exists()
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(60)
    cache = EmbeddingCache(tmp_path, KEY)
    assert not part.exists() and cache.broken == 0
    assert 0 < fill(cache, written, Counting()) < 30
    assert_as_computed(cached(cache, written).pack(np.arange(30)), Counting()(written.pack(np.arange(30))))
