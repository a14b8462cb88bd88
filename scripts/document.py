"""Copy what `mrnn reproduce TABLE` made into the documents: python scripts/document.py TABLE [RESULTS]

Tables, JSON and plots go to docs/results/TABLE; the tables also stand in docs/reproduction.md, between marks.
"""

import re
import shutil
import sys
from pathlib import Path

KEPT = ("tables.md", "results.json", "training.png", "retrieval.png", "worth.png")


def between(document: Path, mark: str, text: str) -> None:
    """Put a text between a document's marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    old = document.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"{document}: has no marks {begin} and {end}")
    pattern = re.escape(begin) + r".*?" + re.escape(end)
    document.write_text(re.sub(pattern, lambda _: f"{begin}\n{text.strip()}\n{end}", old, flags=re.S))


def main() -> None:
    """Copy and fill in."""
    table = sys.argv[1]
    results = Path(sys.argv[2] if len(sys.argv) > 2 else f"results/{table}")
    target = Path("docs/results") / table
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (results / name).is_file():
            shutil.copy(results / name, target)
    text = (target / "tables.md").read_text()
    between(Path("docs/reproduction.md"), table, text)


if __name__ == "__main__":
    main()
