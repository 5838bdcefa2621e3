"""No code of plmft opens a pickle, or anything else that may run what is in it: seen in the syntax, lazy calls too.

That such files are refused when they come is tested beside each reader (test_model_pickles).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPENERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
HARMLESS = {"pickle.UnpicklingError"}  # the name of an error
ALWAYS = {
    "torch.jit.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "pandas.read_pickle",
    "pd.read_pickle",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "eval",
    "exec",
}


def files() -> list[Path]:
    found = [file for folder in ("plmft", "tasks", "hydra_plugins", "slurm") for file in (ROOT / folder).rglob("*.py")]
    assert len(found) > 100
    return found


def name_of(node: ast.expr) -> str:
    """a.b.c as text; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    inner = name_of(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def offences(source: str) -> Iterator[str]:
    """What in a module's text could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        name = name_of(node) if isinstance(node, ast.Attribute) else ""
        if name.partition(".")[0] in OPENERS and name not in HARMLESS:
            yield name
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OPENERS:
            yield f"from {node.module} import"
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if called == "torch.load" and given.get("weights_only") is not True:
            yield "torch.load without weights_only=True"
        if given.get("allow_pickle", False) is not False or given.get("trust_remote_code", False) is not False:
            yield f"{called} with allow_pickle or trust_remote_code"
        if called in ALWAYS:
            yield called


def test_no_file_that_is_read_can_run_code():
    found = {str(file.relative_to(ROOT)): sorted(offences(file.read_text())) for file in files()}
    assert {file: calls for file, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "def f():\n    import pickle\n    return pickle.load(file)",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=given)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pd.read_pickle(path)",
    ],
)
def test_each_way_is_seen(line):
    assert list(offences(line))


@pytest.mark.parametrize("line", ["torch.load(path, weights_only=True)", "np.load(path)", "yaml.safe_load(text)"])
def test_safe_ways_pass(line):
    assert not list(offences(line))
