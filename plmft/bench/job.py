"""One protocol from its parts to its rows: check, open an MLflow run, measure, record, show.

All that can fail by a user's mistake is found before a run is opened, as far as it can be known then.
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console

from plmft import InputError
from plmft.bench.protocol import Bench, Measures, Row
from plmft.bench.record import Recorder
from plmft.bench.table import NOTE, show
from plmft.config.compose import parts_of
from plmft.efficiency.allocator import keep_freed_memory
from plmft.efficiency.out_of_memory import is_out_of_memory, memory_note
from plmft.models.attention import implementation
from plmft.models.spec import TransformerSpec
from plmft.models.weights import Located, locate
from plmft.tracking.claims import claim, key_of
from plmft.tracking.differences import source_tags
from plmft.tracking.lineage import environment_tags, flatten, scrub
from plmft.tracking.lineage_files import write_lineage
from plmft.tracking.options import check_writable, runs_dir
from plmft.tracking.run import Run
from plmft.tracking.store import check_server
from plmft.tracking.weights_origin import weights_tags

ALWAYS = ("model", "hardware", "protocol", "seed")  # of the config, what every protocol's figures depend on
SAME = ("model", "weights", "device", "threads", "note")  # left out of a row's line
SHORT = 4  # figures of a row's line
BUSY = 0.25  # of the cores that this process may use
LOOKED_S = 0.5
KILLED_S = 10.0  # to tell the store of it: who stops a run soon kills it


def run_protocol(config: dict[str, Any], console: Console, sweep: Mapping[str, str]) -> list[Row]:
    """Measure what the config asks for; returns the rows.

    Args: sweep: tags that tell which runs belong together; empty for a run by itself.
    Raises: InputError: a user's mistake. KeyboardInterrupt: the run is marked KILLED and keeps its rows.
    """
    parts, name = parts_of(config), protocol_name(config)
    protocol: Measures = parts["protocol"]
    if hasattr(protocol, "adapted"):
        config = protocol.adapted(config)
        parts = parts_of(config)
    runs = runs_dir()
    check_writable(runs)
    if not parts["tracking"].offline_ok:
        check_server(parts["tracking"].address(runs))
    located = locate(parts["model"])
    origin = weights_tags(located, parts["seed"], runs / "cache")
    folder = runs / "work" / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{name}-{parts['model'].name}"
    bench = make_bench(parts, config, located, origin, runs, folder)
    if hasattr(protocol, "check"):
        protocol.check(bench)
    if bench.device.kind == "cpu":
        keep_freed_memory()
    tags = _tags(bench, name, located) | origin | sweep | _busy(console) | {"folder": folder.name}
    with _opened(bench, name, tags) as (tracked, recorder):
        _measure(bench, name, tags, tracked, recorder, console)
    title = f"{name}: {bench.spec.name} ({bench.weights}), {bench.device.name or 'CPU'}"
    show(console, title, recorder.rows, getattr(protocol, "shows", ()))
    lines = (f"Files: {folder}", f"Compare runs: {tracked.url_hint}", *filter(None, [tracked.note]))
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
    return recorder.rows


def _measure(
    bench: Bench, name: str, tags: Mapping[str, object], tracked: Run, recorder: Recorder, console: Console
) -> None:
    """Each row is kept and told as it comes; what there is at the end, however it came, is summarised."""
    protocol: Measures = bench.parts["protocol"]
    start_s = time.monotonic()
    try:
        for row in _until_memory_ends(protocol, bench):
            line = _line(recorder.add(row), getattr(protocol, "shows", ()))
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    finally:
        about = {key: tags[key] for key in ("model", "weights", "device", "precision", "folder")}
        spent = {"run_id": tracked.id, "wall_time_s": time.monotonic() - start_s}
        about = {"kind": "benchmark", "protocol": name, "seed": bench.seed, **about, **spent}
        recorder.finish(about, protocol.fixes())


def _until_memory_ends(protocol: Measures, bench: Bench) -> Iterator[Row]:
    """The protocol's rows; where the model itself does not fit, a last one that says so."""
    try:
        yield from protocol.measure(bench)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        yield bench.conditions() | {NOTE: f"{memory_note(error)}; nothing after it was measured"}


def protocol_name(config: dict[str, Any]) -> str:
    """The last module of the protocol's `_target_`: its file is called by its name."""
    return config["protocol"]["_target_"].split(".")[-2]


def make_bench(
    parts: dict[str, Any], config: dict[str, Any], located: Located, origin: dict[str, str], runs: Path, folder: Path
) -> Bench:
    """What the protocol is given. Raises: InputError: the device or its precision is not there."""
    hardware = parts["hardware"]
    return Bench(
        parts=parts,
        config=config,
        spec=parts["model"],
        device=hardware.resolve(),
        runs=runs,
        folder=folder,
        seed=parts["seed"],
        usd_per_hour=hardware.usd_per_hour,
        weights=weights_told(located, origin),
    )


def weights_told(located: Located, origin: dict[str, str]) -> str:
    """Which weights, in a word or two: origin is `weights_tags`'."""
    if "model_revision" in origin:
        return f"published {origin['model_revision'][:12]}"
    if "weights_digest" in origin:
        return f"{located.path} {origin['weights_digest'][:12]}"
    return f"random (seed {origin['weights_seed']})"


def _tags(bench: Bench, name: str, located: Located) -> dict[str, object]:
    device = bench.device
    is_transformer = isinstance(bench.spec, TransformerSpec)
    return {
        **environment_tags(),
        "plmft.kind": "benchmark",
        "plmft.protocol": name,
        "model": bench.spec.name,
        "weights": located.source,
        "device": device.name or "cpu",
        "precision": device.precision,
        "attention": implementation(device.torch_type, device.arithmetic) if is_transformer else "",
        **source_tags(),
    }


def _busy(console: Console) -> dict[str, object]:
    """The cores that others use before anything is measured, said where they are many. Not the load average: it
    remembers the run before this one for minutes.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    shares = psutil.cpu_percent(interval=LOOKED_S, percpu=True)
    busy = sum(shares[core] for core in cores) / 100
    if busy > BUSY * len(cores):
        told = f"Others use {busy:.1f} of the {len(cores)} cores: times will be longer than on an idle machine."
        console.print(told, highlight=False, soft_wrap=True)
    return {"machine.cores_busy": f"{busy:.1f}"}


def _params(bench: Bench) -> dict[str, object]:
    """What shapes the figures: the protocol's options and what it fixes, model, hardware, and parts that it uses."""
    protocol = bench.parts["protocol"]
    shaping = {key: bench.config[key] for key in (*ALWAYS, *getattr(protocol, "uses", ())) if key in bench.config}
    if is_dataclass(protocol):  # options that the YAML leaves to the code's defaults count, too
        shaping["protocol"] = shaping["protocol"] | asdict(protocol)
    return flatten(scrub(shaping)) | {f"fixed.{key}": value for key, value in protocol.fixes().items()}


@contextmanager
def _opened(bench: Bench, name: str, tags: dict[str, object]) -> Iterator[tuple[Run, Recorder]]:
    """The MLflow run and what keeps its rows; it is ended with the status that the work came to."""
    folder, tracking = bench.folder, bench.parts["tracking"]
    claimed = claim(bench.runs, key_of(folder.name), folder.name, resume=False)  # while it is held, the run is alive
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tracked = Run.start(
            tracking.address(bench.runs),
            experiment=f"benchmark/{name}",
            name=f"{name}-{bench.spec.name}-{folder.name[:15]}",
            runs=bench.runs,
            tags={tag: value for tag, value in tags.items() if value},
            params=_params(bench),
            folder=folder,
            offline_ok=tracking.offline_ok,
        )
    except BaseException:
        if not any(folder.iterdir()):
            folder.rmdir()
        claimed.finish()
        raise
    try:
        (folder / "config.yaml").write_text(yaml.safe_dump(scrub(bench.config), sort_keys=False))
        for file in (folder / "config.yaml", *write_lineage(folder)):
            tracked.artifact(file)
        yield tracked, Recorder(folder, tracked)
        tracked.end("FINISHED")
    except KeyboardInterrupt:
        tracked.end("KILLED", wait_s=KILLED_S)
        raise
    except OSError as error:
        tracked.end("FAILED")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(f"{folder}: {error.strerror}. What was written before is kept. Make room.") from error
        raise
    except BaseException:
        tracked.end("FAILED")
        raise
    finally:
        claimed.finish()


def _line(row: Row, shows: Sequence[str]) -> str:
    """A row as it comes, in short: the table at the end has all of it."""
    figures = [name for name, value in row.items() if isinstance(value, float) and (not shows or name in shows)]
    told = ", ".join(f"{name} {row[name]:.4g}" for name in figures[:SHORT])
    given = [f"{name} {value}" for name, value in row.items() if not isinstance(value, float) and name not in SAME]
    return f"  {', '.join(given)}: {'; '.join(filter(None, [told, row.get(NOTE)])) or 'nothing measured'}"
