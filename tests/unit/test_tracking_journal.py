"""The journal and its sender: what is told is sent, in order, and counts once, wherever a process dies."""

import errno
import json
import math
import os
import threading

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.tracking.journal import Held, Identity, Journal, first_entry
from plmft.tracking.sender import DiskFull, Sender, Unsendable, again, worth_another_try

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Killed(BaseException):
    """The process is gone at this point."""


class Store:
    """As MLflow's SQL store: the same metric at the same time with the same value is one row."""

    def __init__(self):
        self.rows, self.others = {}, []

    def take(self, entries):
        for entry in entries:
            if entry["call"] == "metrics":
                for name, value in entry["values"].items():
                    self.rows.setdefault((name, entry["step"], entry["at"], value), None)
            else:
                self.others.append(entry)
        return []


def metrics(step, **values):
    return {"call": "metrics", "at": step + 1000, "step": step, "values": values or {"loss": step / 3}}


def tag(n):
    return {"call": "tags", "values": {"n": str(n)}}


def entry_of(n):
    return tag(n) if n % 5 == 4 else metrics(n)


@given(st.data(), st.integers(0, 12))
@QUICK
def test_a_file_cut_anywhere_holds_its_whole_lines_and_goes_on(tmp_path_factory, data, count):
    folder = tmp_path_factory.mktemp("run")
    journal = Journal(folder)
    entries = [entry_of(n) for n in range(count)]
    for entry in entries:
        journal.append(entry)
    ends = [end for _, end in journal.unsent_entries()]
    sent = data.draw(st.sampled_from([0, *ends]))
    journal.note_sent(sent)
    journal.close()
    file = folder / "tracking" / "journal.jsonl"
    cut = data.draw(st.integers(0, file.stat().st_size))
    os.truncate(file, cut)
    whole = [entry for entry, end in zip(entries, ends, strict=True) if end <= cut]

    journal = Journal(folder)
    rest = whole[len([end for end in ends if end <= sent]) :]
    assert [entry for entry, _ in journal.unsent_entries()] == rest
    journal.append(tag(99))
    assert [entry for entry, _ in journal.unsent_entries()] == [*rest, tag(99)]
    journal.close()


class Process:
    """A training process that tells steps 0 to `steps`, from its checkpoint on, and may be killed at any point."""

    def __init__(self, folder, store, faults, steps):
        self.folder, self.store, self.faults, self.steps = folder, store, faults, steps

    def fault(self):
        return self.faults.pop() if self.faults else "none"

    def send(self, entries):
        fault = self.fault()
        if fault == "killed before":
            raise Killed
        if fault == "away":
            raise Unsendable("away")
        self.store.take(entries)
        if fault == "killed after":
            raise Killed
        if fault == "answer lost":
            raise Unsendable("no answer")
        return []

    def run(self, checkpoint):
        """Tell and send in turns; raises Killed."""
        journal = Journal(self.folder)
        journal.make_durable = lambda: None  # nobody pulls the plug here
        sender = Sender(journal, self.send)
        try:
            for step in range(checkpoint, self.steps):
                if entry_of(step)["call"] == "tags":
                    journal.append(entry_of(step))
                elif not journal.has_metric("loss", step):
                    journal.append({**metrics(step), "at": 1000 * (1 + len(self.faults)) + step})
                if self.fault() == "killed before":
                    raise Killed
                if step % 3 == 0:
                    self._send(sender, journal)
            while not journal.all_sent:
                self._send(sender, journal)
        finally:
            journal.close()

    def _send(self, sender, journal):
        written = journal.write_sent

        def write_sent():
            fault = self.fault()
            if fault == "killed before":
                raise Killed
            written()
            if fault == "killed after":
                raise Killed

        journal.write_sent = write_sent
        try:
            sender.send_next()
        except Unsendable:
            pass
        finally:
            journal.write_sent = written


FAULTS = st.lists(
    st.sampled_from(["none", "none", "killed before", "killed after", "away", "answer lost"]), max_size=25
)


@given(FAULTS, st.data())
@QUICK
def test_killed_anywhere_each_metric_is_one_row_in_order(tmp_path_factory, faults, data):
    store, steps = Store(), 14
    process = Process(tmp_path_factory.mktemp("run"), store, list(faults), steps)
    checkpoint = 0
    while True:
        try:
            process.run(checkpoint)
            break
        except Killed:
            checkpoint = data.draw(st.integers(0, max((step for _, step, *_ in store.rows), default=0)))
    expected = [step for step in range(steps) if step % 5 != 4]
    assert [(step, value) for _, step, _, value in store.rows] == [(step, step / 3) for step in expected]
    first = dict.fromkeys(int(entry["values"]["n"]) for entry in store.others)
    assert list(first) == [step for step in range(steps) if step % 5 == 4]


def test_diverged_values_come_back_as_they_were(tmp_path):
    journal = Journal(tmp_path)
    journal.append(metrics(1, a=math.nan, b=math.inf, c=1 / 3))
    ((entry, _),) = journal.unsent_entries()
    assert math.isnan(entry["values"]["a"]) and entry["values"]["b"] == math.inf and entry["values"]["c"] == 1 / 3


def test_a_journal_has_one_holder_who_may_be_waited_for(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(Held, match="another process is sending this run"):
        Journal(tmp_path)
    timer = threading.Timer(0.1, journal.close)
    timer.start()
    Journal(tmp_path, wait_s=20).close()


def test_lines_without_sense_are_told_and_stop_nothing(tmp_path):
    journal = Journal(tmp_path)
    journal.append(tag(0))
    journal.close()
    with (tmp_path / "tracking" / "journal.jsonl").open("ab") as file:
        file.write(b"\0" * 40 + b"\n[1]\n")
    journal, store = Journal(tmp_path), Store()
    journal.append(tag(1))
    sender = Sender(journal, store.take)
    while not journal.all_sent:
        sender.send_next()
    assert store.others == [tag(0), tag(1)]
    assert journal.sent.refused == ["2 lines of the journal that cannot be read"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"unknown": 1}', "null"])
def test_a_note_of_what_was_sent_that_is_lost_sends_all_again(tmp_path, content):
    journal = Journal(tmp_path)
    journal.append(tag(0))
    Sender(journal, Store().take).send_next()
    journal.close()
    (tmp_path / "tracking" / "sent.json").write_text(content)
    assert Journal(tmp_path).unsent == 1


def test_an_entry_for_which_there_is_no_room_leaves_nothing(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.append(tag(0))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:5]))
    with pytest.raises(OSError, match="No space left"):
        journal.append(metrics(0))
    monkeypatch.undo()
    journal.append(tag(1))
    assert [entry for entry, _ in journal.unsent_entries()] == [tag(0), tag(1)]
    assert not journal.has_metric("loss", 0)


def test_metrics_go_together_up_to_a_thousand_and_others_alone(tmp_path):
    journal, calls = Journal(tmp_path), []
    for step in range(1200):
        journal.append(metrics(step))
    journal.append(tag(0))
    journal.append(tag(1))
    journal.append(metrics(1200, **{f"m{i}": 0.0 for i in range(1500)}))
    journal.append(metrics(1201))
    sender = Sender(journal, lambda entries: calls.append(len(entries)) or [])
    while not journal.all_sent:
        sender.send_next()
    assert calls == [1000, 200, 1, 1, 1, 1]


class Flaky:
    """A store that is away for so many calls."""

    def __init__(self, away, failure=Unsendable):
        self.away, self.failure, self.store = away, failure, Store()

    def __call__(self, entries):
        if self.away:
            self.away -= 1
            raise self.failure("away")
        return self.store.take(entries)


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr("plmft.tracking.sender.FIRST_PAUSE_S", 0.01)


def test_the_thread_tries_again_until_the_store_is_back(tmp_path, short_pauses):
    journal, flaky = Journal(tmp_path), Flaky(3)
    sender = Sender(journal, flaky, linger_s=60)
    sender.start()
    for step in range(4):
        journal.append(metrics(step))
    assert sender.drain(60)
    assert [step for _, step, *_ in flaky.store.rows] == [0, 1, 2, 3] and flaky.away == 0
    sender.stop()
    sender._thread.join(60)
    Journal(tmp_path).close()


def test_the_thread_sends_what_has_lingered(tmp_path):
    journal, arrived = Journal(tmp_path), threading.Event()
    sender = Sender(journal, lambda entries: arrived.set() or [], linger_s=0.01)
    sender.start()
    journal.append(metrics(0))
    assert arrived.wait(60)
    sender.stop()


def test_waiting_has_an_end_even_if_the_store_never_answers(tmp_path):
    journal, begun, ending = Journal(tmp_path), threading.Event(), threading.Event()

    def send(entries):
        begun.set()
        ending.wait(60)
        return []

    sender = Sender(journal, send)
    sender.start()
    journal.append(tag(0))
    sender.rouse()
    assert begun.wait(60)
    assert not sender.drain(0.05)
    sender.stop()
    with pytest.raises(Held):
        Journal(tmp_path)  # the call under way may still note that it was sent
    ending.set()
    with_it = Journal(tmp_path, wait_s=60)
    assert with_it.all_sent


def test_a_full_disk_ends_the_waiting_and_is_told(tmp_path):
    journal = Journal(tmp_path)
    sender = Sender(journal, Flaky(1000, DiskFull))
    sender.start()
    journal.append(tag(0))
    assert not sender.drain(600)
    with pytest.raises(OSError, match="the disk is full") as caught:
        sender.check_disk()
    assert caught.value.errno == errno.ENOSPC
    sender.stop()


def test_what_is_refused_is_noted_and_the_rest_is_sent(tmp_path):
    journal = Journal(tmp_path)
    sender = Sender(journal, lambda entries: ["n: no"] if entries[0] == tag(1) else [])
    for n in range(3):
        journal.append(tag(n))
        sender.send_next()
    assert journal.all_sent
    assert json.loads((tmp_path / "tracking" / "sent.json").read_text())["refused"] == ["n: no"]


def failures():
    from mlflow.exceptions import MlflowException, RestException
    from sqlalchemy.exc import OperationalError, ProgrammingError

    def answered(status):
        answer = requests.Response()
        answer.status_code = status
        return requests.HTTPError(response=answer)

    def caused(error):
        told = InputError("MLflow store: no")
        told.__cause__ = error
        return told

    yield from [(requests.ConnectionError(), True), (requests.Timeout(), True), (TimeoutError(), True)]
    yield from [(answered(status), True) for status in (500, 502, 503, 429, 401, 403, 408)]
    yield from [(answered(status), False) for status in (400, 404, 413)]
    yield from [(MlflowException("Max retries exceeded"), True), (caused(MlflowException("reset")), True)]
    yield from [(RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "locked"}), True)]
    yield from [(RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "a//b"}), False)]
    yield from [(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}), False)]
    yield from [(RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "wait"}), True)]
    yield from [(RestException({"error_code": "BAD_REQUEST", "message": "(x.IntegrityError) UNIQUE"}), True)]
    yield from [(OperationalError("", {}, Exception("database is locked")), True)]
    yield from [(ProgrammingError("", {}, Exception("no such table")), False)]
    yield from [(FileNotFoundError(), False), (OSError(errno.EIO, ""), True), (ValueError("x"), False)]
    yield from [(InputError("experiment e was deleted"), False)]


def test_what_may_pass_is_tried_again_and_nothing_else():
    wrong = [(error, expected) for error, expected in failures() if worth_another_try(error) != expected]
    assert wrong == []


def test_again_gives_up_on_what_does_not_pass(short_pauses):
    calls = []

    def call():
        calls.append(None)
        raise Unsendable("deleted") from (requests.ConnectionError() if len(calls) < 3 else ValueError())

    with pytest.raises(Unsendable):
        again(call, 60)
    assert len(calls) == 3


def test_who_a_journal_belongs_to(tmp_path):
    assert Identity.read(tmp_path) is None and first_entry(tmp_path) is None
    journal = Journal(tmp_path)
    identity = Identity("http://***@host", "fluorescence", "/runs", "abc")
    identity.write(tmp_path)
    journal.append(tag(0))
    assert Identity.read(tmp_path) == identity and first_entry(tmp_path) == tag(0)
    journal.discard()
    assert Identity.read(tmp_path) is None and list(tmp_path.iterdir()) == []
