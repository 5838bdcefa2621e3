"""Write a file, or a folder, at once or not at all, whoever else writes it at the same time."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plmft import InputError


def check_free(option: str, path: str | Path) -> None:
    """Raises: InputError: something is at the place of an output. A folder may be there if it is empty."""
    place = Path(path).expanduser()
    try:
        taken = os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir()))
    except OSError as error:
        raise InputError(f"{option}={path}: can't be read ({error.strerror}). Choose another name.") from None
    if taken:
        raise InputError(f"{option}={path}: is there already, and is not replaced. Choose another name, or remove it.")


def named(output: str) -> Path:
    """The path of an output, beside which others can be named: "." is made absolute. Raises: InputError: the root."""
    path = Path(output).expanduser()
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))
    if not path.name:
        raise InputError(f"output={output}: there is something else. Name another output.")
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Beside its place first, then moved there. Raises: OSError: no room, or no right; nothing is left then."""
    with _whole(path) as part:
        part.write_bytes(content)


def copy_whole(source: Path, path: Path) -> None:
    """The same with the content of another file, however large: it is not held. Raises: OSError."""
    with _whole(path) as part:
        shutil.copyfile(source, part)


def write_first(path: Path, content: bytes) -> None:
    """As write_whole, but what is there stays: of several writers, the first. Raises: OSError: no room, or no right."""
    with _whole(path, _if_first) as part:
        part.write_bytes(content)


def _if_first(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: the last one's stays
        os.replace(part, path)
        return
    part.unlink()


@contextmanager
def _whole(path: Path, move: Callable[[Path, Path], None] = os.replace) -> Iterator[Path]:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        move(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Where to write a folder that is there at once or not at all; an empty one is replaced. Raises: OSError."""
    folder = folder.absolute()  # "." has no name
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        yield part
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
