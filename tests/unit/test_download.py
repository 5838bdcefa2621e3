"""Downloads against a real server on 127.0.0.1 that breaks off, lies and serves wrong bytes."""

import errno
import hashlib
import io
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plmft import InputError
from plmft.data.download import CHUNK_BYTES, RemoteFile, download

CONTENT = random.Random(0).randbytes(4 * CHUNK_BYTES)
HALF = 2 * CHUNK_BYTES


class Handler(BaseHTTPRequestHandler):
    """Answers the n-th request as the n-th step of `server.plan` says; the last step holds for all that follow."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        with server.guard:
            step = server.plan[min(len(server.ranges), len(server.plan) - 1)]
            server.ranges.append(asked)
            server.encodings.add(self.headers.get("Accept-Encoding"))
        step(self, int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else None)

    def head(self, status, length=None, **more):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, content):
        self.server.sent.append(len(content))
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def serve(content=CONTENT, announce=None, send=None, ranges=True, **more):
    """A step: `content`, of which `send` bytes go out before the connection ends, under the length `announce`."""

    def step(handler, start):
        if start is not None and ranges:
            if start >= len(content):
                return handler.head(416, 0)
            rest = content[start:]
            handler.head(206, len(rest), Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
            return handler.body(rest)
        handler.head(200, len(content) if announce is None else announce, **more)
        return handler.body(content[:send])

    return step


def status(code):
    return lambda handler, start: handler.head(code, 0)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.plan, server.ranges, server.sent, server.guard = [serve()], [], [], threading.Lock()
        server.encodings = set()
        server.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def git_blob_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pinned(server, content=CONTENT, size=True, git=False):
    sha256 = None if git else hashlib.sha256(content).hexdigest()
    blob = git_blob_sha1(content) if git else None
    return RemoteFile("train.csv", server.url, sha256, blob, len(content) if size else None)


def get(file, folder, **options):
    return download(file, folder, **{"timeout_s": 5.0, "attempts": 3, "pause_s": 0.001, **options})


def left(folder):
    """Names in the folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("git", [False, True], ids=["sha256", "git"])
@pytest.mark.parametrize("size", [False, True], ids=["size unknown", "size known"])
@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_any_length_arrives_whole_and_a_second_call_asks_nothing(server, tmp_path, length, size, git):
    content = CONTENT[:length]
    server.plan = [serve(content)]
    file = pinned(server, content, size, git)
    path = get(file, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "train.csv" and path.read_bytes() == content
    assert left(path.parent) == ["train.csv"]
    assert get(file, path.parent) == path
    assert server.ranges == [None]


@pytest.mark.parametrize("size", [False, True], ids=["size unknown", "size known"])
def test_goes_on_where_the_connection_broke_off(server, tmp_path, size):
    server.plan = [serve(send=HALF), serve()]
    assert get(pinned(server, size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert server.sent == [HALF, len(CONTENT) - HALF]
    assert left(tmp_path) == ["train.csv"]


def test_starts_again_where_the_server_ignores_ranges(server, tmp_path):
    server.plan = [serve(send=HALF), serve(ranges=False)]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert server.sent == [HALF, len(CONTENT)]


def test_never_ending_breaks_keep_the_part_for_the_next_call(server, tmp_path):
    server.plan = [serve(send=HALF, ranges=False)]
    with pytest.raises(InputError, match="3 attempts"):
        get(pinned(server), tmp_path)
    assert len(server.ranges) == 3
    assert left(tmp_path) == ["train.csv.part"]
    server.plan = [serve()]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={HALF}-"


def test_chunked_answer_that_breaks_off(server, tmp_path):
    def step(handler, start):
        handler.protocol_version = "HTTP/1.1"
        handler.head(200, Transfer_Encoding="chunked")
        handler.body(b"%x\r\n" % HALF + CONTENT[:HALF] + b"\r\n")
        handler.close_connection = True

    server.plan = [step, serve()]
    assert get(pinned(server, size=False), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2


@pytest.mark.parametrize("size", [False, True], ids=["size unknown", "size known"])
def test_announced_length_too_long_does_no_harm(server, tmp_path, size):
    server.plan = [serve(announce=len(CONTENT) + 1000)]
    assert get(pinned(server, size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_announced_length_too_short_is_noticed_and_the_rest_fetched(server, tmp_path):
    server.plan = [serve(announce=HALF), serve()]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_announced_length_too_short_without_known_size_is_refused(server, tmp_path):
    server.plan = [serve(announce=HALF)]
    with pytest.raises(InputError, match="wrong bytes"):
        get(pinned(server, size=False), tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("git", [False, True], ids=["sha256", "git"])
@pytest.mark.parametrize("wrong", [b"x" * len(CONTENT), b"x" * (2 * len(CONTENT))], ids=["same length", "longer"])
def test_wrong_bytes_are_refused_at_once_and_nothing_is_left(server, tmp_path, wrong, git):
    server.plan = [serve(wrong)]
    file = pinned(server, git=git)
    with pytest.raises(InputError) as caught:
        get(file, tmp_path)
    found = wrong[: len(CONTENT)]  # no more than that is read
    digests = (file.git_blob_sha1, git_blob_sha1(found)) if git else (file.sha256, hashlib.sha256(found).hexdigest())
    for text in (server.url, *digests, str(tmp_path / "train.csv"), "PLMFT_DATA"):
        assert text in str(caught.value)
    assert left(tmp_path) == []
    assert server.ranges == [None]


def test_both_digests_must_match(server, tmp_path):
    right = RemoteFile("right.csv", server.url, hashlib.sha256(CONTENT).hexdigest(), git_blob_sha1(CONTENT))
    assert get(right, tmp_path).read_bytes() == CONTENT
    file = RemoteFile("train.csv", server.url, hashlib.sha256(CONTENT).hexdigest(), "0" * 40)
    with pytest.raises(InputError, match="git blob SHA-1 " + "0" * 40):
        get(file, tmp_path)


def test_an_endless_answer_does_not_fill_the_disk(server, tmp_path):
    def endless(handler, start):
        handler.head(200)
        try:
            while True:
                handler.wfile.write(bytes(CHUNK_BYTES))
        except OSError:
            server.hung_up.set()

    server.hung_up = threading.Event()
    server.plan = [endless]
    with pytest.raises(InputError, match="wrong bytes"):
        get(pinned(server, CONTENT[:1000]), tmp_path)
    assert server.hung_up.wait(5)
    assert left(tmp_path) == []


def test_what_is_pinned_is_the_bytes_and_not_what_they_decode_to(server, tmp_path):
    server.plan = [serve(Content_Encoding="gzip")]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.encodings == {"identity"}


@pytest.mark.parametrize("size", [False, True], ids=["size unknown", "size known"])
@pytest.mark.parametrize("old", [b"y" * HALF, b"y" * len(CONTENT), b"y" * (len(CONTENT) + 1)])
def test_bad_part_of_an_earlier_call_is_thrown_away(server, tmp_path, old, size):
    (tmp_path / "train.csv.part").write_bytes(old)
    assert get(pinned(server, size=size), tmp_path).read_bytes() == CONTENT
    too_long = size and len(old) >= len(CONTENT)  # then nothing is left to ask for
    assert server.ranges == ([None] if too_long else [f"bytes={len(old)}-", None])
    assert left(tmp_path) == ["train.csv"]


def test_whole_part_of_an_earlier_call_needs_no_request(server, tmp_path):
    (tmp_path / "train.csv.part").write_bytes(CONTENT)
    assert get(pinned(server, size=False), tmp_path).read_bytes() == CONTENT
    assert server.ranges == []


def test_a_range_that_was_not_asked_for_is_not_appended(server, tmp_path):
    def shifted(handler, start):
        handler.head(206, HALF - 1, Content_Range=f"bytes {HALF + 1}-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.body(CONTENT[HALF + 1 :])

    server.plan = [serve(send=HALF), shifted, serve()]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_server_errors_are_tried_again_with_growing_pauses(server, tmp_path, monkeypatch):
    pauses_s = []
    monkeypatch.setattr(time, "sleep", pauses_s.append)
    server.plan = [status(500), status(503), serve()]
    assert get(pinned(server), tmp_path, pause_s=1.0).read_bytes() == CONTENT
    assert len(server.ranges) == 3
    assert pauses_s == [1.0, 2.0]


@pytest.mark.parametrize("code", [403, 404, 410, 416])
def test_client_errors_end_at_once(server, tmp_path, code):
    server.plan = [status(code)]
    with pytest.raises(InputError, match=f"HTTP {code}.*PLMFT_DATA"):
        get(pinned(server), tmp_path)
    assert len(server.ranges) == 1
    assert left(tmp_path) == []


def test_silence_is_a_timeout_and_tried_again(server, tmp_path):
    done = threading.Event()
    server.plan = [lambda handler, start: done.wait(5), serve()]
    try:
        assert get(pinned(server), tmp_path, timeout_s=0.2).read_bytes() == CONTENT
    finally:
        done.set()
    assert len(server.ranges) == 2


def assert_says_what_to_put_where(message, file, folder, reason):
    for text in (file.url, reason, str(folder / "train.csv"), "fluorescence/train.csv", "PLMFT_DATA", "data.dir"):
        assert text in message


def test_nobody_listening(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        file = RemoteFile("train.csv", f"http://127.0.0.1:{closed.getsockname()[1]}/file", "0" * 64)
        with pytest.raises(InputError) as caught:
            get(file, tmp_path / "fluorescence")
    assert_says_what_to_put_where(str(caught.value), file, tmp_path / "fluorescence", "Connection refused")
    assert left(tmp_path / "fluorescence") == []


def test_no_name_service(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setenv("NO_PROXY", "*")
    file = RemoteFile("train.csv", "https://data.invalid/file", "0" * 64)
    with pytest.raises(InputError) as caught:
        get(file, tmp_path / "fluorescence")
    assert_says_what_to_put_where(str(caught.value), file, tmp_path / "fluorescence", "Name or service not known")


def test_threads_at_once_share_one_request(server, tmp_path):
    def slow(handler, start):
        time.sleep(0.1)
        serve()(handler, start)

    server.plan = [slow]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(pinned(server), tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert server.ranges == [None]


def start_process(server, folder):
    """Download in a process of its own, which writes its log to stderr."""
    code = (
        "import logging, pathlib\nfrom plmft.data.download import *\nlogging.basicConfig(level=logging.INFO)\n"
        f"download({pinned(server)!r}, pathlib.Path({str(folder)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_second_process_waits_for_the_first(server, tmp_path):
    go_on = threading.Event()
    server.plan = [lambda handler, start: (go_on.wait(20), serve()(handler, start))]
    processes = [start_process(server, tmp_path), start_process(server, tmp_path)]
    try:
        firsts = sorted(process.stderr.readline() for process in processes)  # one line each, before either ends
        assert "downloading train.csv" in firsts[0] and "waiting for another process" in firsts[1]
        go_on.set()
        assert [process.wait(20) for process in processes] == [0, 0]
    finally:
        go_on.set()
        for process in processes:
            process.kill()
            process.communicate()
    assert (tmp_path / "train.csv").read_bytes() == CONTENT
    assert server.ranges == [None]


def test_killed_and_called_again_goes_on(server, tmp_path):
    def stall(handler, start):
        handler.head(200, len(CONTENT))
        handler.body(CONTENT[:HALF])
        release.wait(20)

    release = threading.Event()
    server.plan = [stall, serve()]
    part = tmp_path / "train.csv.part"
    process = start_process(server, tmp_path)
    try:
        while not (part.exists() and part.stat().st_size == HALF):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finally:
        release.set()
        process.kill()
    assert left(tmp_path) == ["train.csv.part"]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_existing_right_file_is_returned_without_a_write(server, tmp_path):
    (tmp_path / "train.csv").write_bytes(CONTENT)
    get(pinned(server), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]  # not even a lock: the folder may be read-only
    assert server.ranges == []


def test_existing_wrong_file_stays_until_the_right_one_is_there(server, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"old")
    during = []

    def look(handler, start):
        during.append(path.read_bytes())
        serve()(handler, start)

    server.plan = [look]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert during == [b"old"]
    assert left(tmp_path) == ["train.csv"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk full", "over quota"])
def test_full_disk_keeps_the_part(server, tmp_path, monkeypatch, number):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError) as caught:
            get(pinned(server, size=False), tmp_path)  # the length is what the server announces
    for text in (str(tmp_path / "train.csv"), os.strerror(number), f"{len(CONTENT):,} bytes"):
        assert text in str(caught.value)
    assert left(tmp_path) == ["train.csv.part"]
    assert get(pinned(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_full_disk_while_writing(server, tmp_path):
    (tmp_path / "train.csv.part").symlink_to("/dev/full")
    file = RemoteFile("train.csv", server.url, hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
    with pytest.raises(InputError, match=f"No space left.*{len(CONTENT):,} bytes"):
        get(file, tmp_path)
    assert server.ranges == [None]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    file = RemoteFile("train.csv", "http://127.0.0.1:9/file", "0" * 64)
    with pytest.raises(InputError, match=r"data/train\.csv can.t be written.*PLMFT_DATA"):
        get(file, tmp_path / "data")


def test_log_has_a_line_at_start_and_end(server, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="plmft.data"):
        get(pinned(server), tmp_path)
        get(pinned(server), tmp_path)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["downloading", "downloaded"]


@pytest.mark.parametrize("terminal", [True, False])
def test_bar_on_a_terminal_only(server, tmp_path, monkeypatch, terminal):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    get(pinned(server), tmp_path)
    assert ("train.csv" in stderr.getvalue()) is terminal
    assert terminal or stderr.getvalue() == ""


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0"])
def test_names_with_folders_are_refused(name):
    with pytest.raises(ValueError, match="plain file name"):
        RemoteFile(name, "https://example.org/a", "0" * 64)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sha256": None}, "without a digest"),
        ({"sha256": "0" * 63}, "64 lower-case hex"),
        ({"sha256": "A" * 64}, "64 lower-case hex"),
        ({"git_blob_sha1": "0" * 64}, "40 lower-case hex"),
        ({"size_bytes": -1}, "0 or more"),
        ({"url": "file:///etc/passwd"}, "https://"),
    ],
)
def test_what_is_not_pinned_properly_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        RemoteFile(**{"name": "a", "url": "https://example.org/a", "sha256": "0" * 64, **changed})


def test_git_blob_digest_is_that_of_git():
    assert git_blob_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # the empty blob of every git repository
