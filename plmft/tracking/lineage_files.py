"""Two files that a run keeps of what it ran on: code.diff, where the checkout was changed, and requirements.txt.

Costs git's diff (some ms) and one look at each installed distribution's metadata (0.2 ms each).
"""

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path

from plmft.tracking.lineage import MASK, checkout, code_changes, is_secret, mask

DIFF, REQUIREMENTS = "code.diff", "requirements.txt"
LONGEST_DIFF = 1_000_000  # characters
SHORTEST_SECRET = 6  # of a value in the environment: shorter ones are in any text

ASSIGNED = re.compile(
    r"""(?P<name>[\w.-]+)(?P<between>["']?\s*[:=]\s*)(?P<value>"[^"]*"|'[^']*'|[\w+/=.~-]+(?=\s*$))"""
)
TOKENS = re.compile(r"\b(hf_|gh[opsu]_|github_pat_|glpat-|sk-|xox[bp]-|AKIA)[\w-]{12,}")
PRIVATE_KEYS = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL)


def write_lineage(folder: Path) -> list[Path]:
    """Write the files into a run's folder; returns those there are: code.diff only for a changed checkout."""
    requirements = folder / REQUIREMENTS
    requirements.write_text("\n".join(installed()) + "\n")
    diff = code_diff(checkout())
    if diff is None:
        return [requirements]
    (folder / DIFF).write_text(diff)
    return [requirements, folder / DIFF]


def code_diff(place: Path) -> str | None:
    """What differs from the commit in a checkout's tracked files, as git tells it, and the names of untracked ones.

    Secrets are masked, and what is longer than LONGEST_DIFF is cut with a mark. None: nothing differs, or no checkout.
    """
    changes = code_changes(place)
    if changes is None or not any(changes):
        return None
    diff, untracked = changes
    text = "".join(f"# untracked, not kept here: {name}\n" for name in untracked.splitlines()) + diff
    cut = f"\n# cut: {len(text) - LONGEST_DIFF:,} characters more\n" if len(text) > LONGEST_DIFF else "\n"
    return without_secrets(text[:LONGEST_DIFF]) + cut


def without_secrets(text: str) -> str:
    """Source code or settings with secrets masked.

    Those are: values that the names before them tell (`password: x`, `"api_key": "x"`), logins in addresses, private
    keys, tokens of well-known makers, and what this process's own environment holds under a secret's name.
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and is_secret(name, value):
            text = text.replace(value, MASK)
    text = TOKENS.sub(MASK, PRIVATE_KEYS.sub(rf"\1{MASK}", text))
    return "\n".join(ASSIGNED.sub(_masked, mask(line)) for line in text.split("\n"))


def _masked(found: re.Match[str]) -> str:
    secret = is_secret(found["name"], found["value"].strip("\"'"))
    return f"{found['name']}{found['between']}{MASK}" if secret else found[0]


def installed() -> list[str]:
    """The lines of requirements.txt: every distribution that this process can import, and its version.

    What comes from no package index (a folder, a repository) is a comment: its name there may be another's.
    """
    lines = {}
    for distribution in importlib.metadata.distributions():
        about = distribution.metadata
        name, version = about["Name"], about["Version"]
        if not name or name.lower() in lines:  # the first on the path is the one that is imported
            continue
        origin = "a build" if name == "plmft" else None  # the index has another package of this name
        if (recorded := distribution.read_text("direct_url.json")) is not None:
            origin = _address(recorded)
        lines[name.lower()] = f"{name}=={version}" if origin is None else f"# {name}=={version} from {origin}"
    return [f"# Python {platform.python_version()}", *(lines[name] for name in sorted(lines))]


def _address(recorded: str) -> str:
    """Where a distribution was installed from, by what pip has recorded."""
    try:
        return mask(json.loads(recorded)["url"])
    except (ValueError, KeyError, TypeError):
        return "an unknown address"
