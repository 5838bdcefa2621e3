"""Published weights: from the cache without a network, from a hub on this machine, or one clear message."""

import hashlib
import http.server
import json
import threading

import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertModel

from plmft import InputError
from plmft.models.hub import weight_set
from plmft.models.spec import TransformerSpec
from plmft.models.weights import load, locate

COMMIT, REPOSITORY = "0123456789abcdef0123456789abcdef01234567", "someone/small_bert"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path):
    """A checkpoint, with what its repository may hold besides."""
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=24, vocab_size=30,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "repository")
    found = {file.name: file.read_bytes() for file in (tmp_path / "repository").iterdir()}
    return found | {"pytorch_model.bin": b"of no use", "tf_model.h5": b"of no use", "README.md": b"of no use"}


@pytest.fixture
def hub(files, cache, monkeypatch):
    """A hub that serves `files`; gives the list of paths that were asked for."""
    asked = []

    def oid(name):
        return hashlib.sha1(name.encode()).hexdigest()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            name = self.path.rpartition("/")[2]
            if self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
                listed = [{"type": "file", "path": n, "size": len(files[n]), "oid": oid(n)} for n in files]
                body = json.dumps(listed).encode()
            elif self.path.startswith(f"/api/models/{REPOSITORY}"):
                siblings = [{"rfilename": n} for n in files]
                body = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
            elif self.path.startswith(f"/{REPOSITORY}/resolve/") and name in files:
                body = files[name]
            else:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{oid(name)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    reach(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield asked
    server.shutdown()
    server.server_close()


def reach(address, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def small(**changes):
    figures = {
        "layers": 1,
        "width": 16,
        "heads": 2,
        "feedforward": 24,
        "vocabulary": 30,
        "context": 50,
        "positions": 64,
    }
    figures |= {"parameters": 3528, "hub": REPOSITORY, "revision": COMMIT, "citation": "", "licence": ""}
    return TransformerSpec("small_bert", "bert", **figures | changes)


def fill(cache, files, wanted):
    snapshot = cache / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    for name in wanted:
        (snapshot / name).write_bytes(files[name])
    return snapshot


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_the_cache_is_enough(cache, files, revision):
    snapshot = fill(cache, files, ["config.json", "model.safetensors"])
    located = locate(small(revision=revision))
    assert (located.source, located.path, located.revision) == ("hub", snapshot, COMMIT)
    assert load(small(), located).config.hidden_size == 16


def test_a_download_takes_config_and_one_set_of_weights(hub, cache):
    located = locate(small())
    assert (located.source, located.revision) == ("hub", COMMIT)
    assert {file.name for file in located.path.iterdir()} == {"config.json", "model.safetensors"}
    assert located.path.is_relative_to(cache)
    assert sum(weights.numel() for weights in load(small(), located).parameters()) == 3528
    asked = len(hub)
    assert locate(small()) == located
    assert len(hub) == asked  # the second time no network is touched


def test_what_an_unpinned_revision_led_to_is_told(hub):
    assert locate(small(revision=None)).revision == COMMIT


def test_a_cache_without_the_weights_is_filled(hub, cache, files):
    fill(cache, files, ["config.json"])
    assert (locate(small()).path / "model.safetensors").is_file()


def test_a_repository_without_weights_is_told(hub, files):
    for name in ("model.safetensors", "pytorch_model.bin"):
        del files[name]
    with pytest.raises(InputError, match="neither safetensors nor pytorch_model"):
        locate(small())


def test_the_config_is_checked_before_anything_is_loaded(cache, files):
    fill(cache, files, ["config.json", "model.safetensors"])
    with pytest.raises(InputError, match="layers is 2 for small_bert, but 1 in it"):
        locate(small(layers=2))


@pytest.mark.parametrize("offline", [True, False])
def test_one_message_says_what_to_do_without_a_network(cache, monkeypatch, offline):
    if not offline:
        reach("http://127.0.0.1:9", monkeypatch)  # the discard port, where nothing listens
    with pytest.raises(InputError) as raised:
        locate(small())
    for way_out in ("model.path=FOLDER", "model.init=random", str(cache), REPOSITORY, COMMIT):
        assert way_out in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (["onnx/model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-00002-of-00002.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
            ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        ),
        (["model-00001-of-00002.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model-00001-of-00002.safetensors", "tf_model.h5"], []),
    ],
)
def test_the_best_complete_set_of_weights_is_chosen(names, chosen):
    assert weight_set(names) == chosen
