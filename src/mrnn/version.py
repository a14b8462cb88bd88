"""Which code this is: the package's version, and its git commit where it has one."""

import shutil
import subprocess
from pathlib import Path

import mrnn


def code_version() -> dict[str, str]:
    """The package's version, and the git commit if it runs from a checkout of its own."""
    version = {"version": mrnn.__version__}
    if shutil.which("git"):
        tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)  # it may lie within another project
        if tracked and (commit := _git("describe", "--always", "--dirty", "--abbrev=12")):
            version["commit"] = commit
    return version


def _git(*command: str) -> str:
    """What git answers in the package's folder; nothing if it fails."""
    place = ["git", "-C", str(Path(__file__).parent)]
    return subprocess.run([*place, *command], capture_output=True, text=True, check=False).stdout.strip()
