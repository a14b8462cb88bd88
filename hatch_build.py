"""The README as a package index shows it: what it links to by name is looked for where the repository is."""

import email.policy
import re
import subprocess
from email.parser import BytesParser
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)")
_REMOTE = re.compile(r"(?:https?://|ssh://)?(?:[^@/]*@)?([\w-]+(?:\.[\w-]+)+)(?::\d+/|[:/])([^:]+?)(?:\.git)?/?")


class Readme(MetadataHookInterface):
    """Fills in `readme` and `urls`, which pyproject.toml leaves open."""

    def update(self, metadata: dict) -> None:
        """Add them to the metadata."""
        root = Path(self.root)
        if (root / "PKG-INFO").is_file():  # a source distribution, whose README is that of an index already
            told = BytesParser(policy=email.policy.compat32).parsebytes((root / "PKG-INFO").read_bytes())
            text, url = told.get_payload(decode=True).decode(), (told["Project-URL"] or "").partition(", ")[2]
        else:
            url = address(_git(root, "remote", "get-url", "origin"))
            text = shown((root / "README.md").read_text(encoding="utf-8"), url, _git(root, "rev-parse", "HEAD"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = {"Source": url} if url else {}


def address(remote: str) -> str:
    """The page of the repository that a remote of Git names, without names and passwords; empty if there is none."""
    found = _REMOTE.fullmatch(remote)
    return f"https://{found[1]}/{found[2]}" if found else ""


def shown(text: str, url: str, commit: str) -> str:
    """The README with whole addresses; without one, pictures are what they show and links what they say."""

    def whole(link: re.Match) -> str:
        picture, said, file = link.groups()
        if not (url and commit):
            return f"*{said}*" if picture else said
        return f"{picture}[{said}]({url}/{'raw' if picture else 'blob'}/{commit}/{file})"

    return _LINK.sub(whole, text)


def _git(root: Path, *asked: str) -> str:
    try:
        return subprocess.run(["git", "-C", root, *asked], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
