"""The core knows no framework, nor the parts around it; lazy imports are seen too (style 2)."""

import ast
from pathlib import Path

import pytest

import plmft

ROOT = Path(plmft.__file__).parent
CORE = ("data", "models", "metrics", "efficiency")
BANNED = {"hydra", "omegaconf", "lightning", "pytorch_lightning", "mlflow"}
OUTSIDE = {"plmft.training", "plmft.tracking", "plmft.sweeps", "plmft.config", "plmft.train", "plmft.report"}


def core_files() -> list[Path]:
    files = [file for part in CORE for file in sorted((ROOT / part).rglob("*.py"))]
    tasks = sorted((ROOT.parent / "tasks").glob("*.py"))
    if len(files) < 15 or len(tasks) < 3:
        raise RuntimeError(f"found {len(files)} files of the core and {len(tasks)} tasks: the folders have moved")
    return files + tasks


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", core_files(), ids=lambda p: str(p.relative_to(ROOT.parent)))
def test_core_imports_no_framework(path: Path) -> None:
    names = imported(path)
    assert not {name.partition(".")[0] for name in names} & BANNED
    assert not {n for n in names if any(n == o or n.startswith(o + ".") for o in OUTSIDE)}


def test_metrics_and_efficiency_know_no_model() -> None:
    for part in ("metrics", "efficiency"):
        for path in (ROOT / part).rglob("*.py"):
            assert not {n for n in imported(path) if n.startswith(("plmft.models", "transformers", "peft"))}, path
