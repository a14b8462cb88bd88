"""Captions leave the library: as a table, as a text file a photo, or as an XMP sidecar a photo."""

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrnn.files import atomic_path, first_line
from mrnn.library.searching import present
from mrnn.library.tables import Tables, vectors
from mrnn.pipeline import Pipeline

_SHOWN = ("hash", "taken", "taken_from", "width", "height", "captions", "likelihoods", "confidence")
_X, _RDF = "adobe:ns:meta/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC, _IPTC = "http://purl.org/dc/elements/1.1/", "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_OWN = "urn:mrnn:xmp:1.0/"
_PREFIXES = {"x": _X, "rdf": _RDF, "dc": _DC, "Iptc4xmpCore": _IPTC, "mrnn": _OWN}
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def write_table(tables: Tables, pipeline: Pipeline, file: Path) -> int:
    """See `Library.export`."""
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{file}: captions are exported as .csv or .jsonl")
    rows = list(_rows(tables, pipeline))
    out = io.StringIO()
    if file.suffix.lower() == ".csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["image", "caption", "log_likelihood", "confidence", "guess"])
        for row in rows:
            sure = "" if row["confidence"] is None else f"{row['confidence']:.2f}"
            numbers = f"{row['likelihoods'][0]:.3f}", sure, str(row["guess"]).lower()
            writer.writerow([row["image"], row["captions"][0], *numbers])
    else:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with atomic_path(file) as temporary:
        temporary.write_text(out.getvalue(), encoding="utf-8", newline="")
    return len(rows)


def _rows(tables: Tables, pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    places = tables.places()
    for batch in tables.batches("contents", [*_SHOWN, "image"]):
        some = pa.Table.from_batches([batch])
        shown = some.select(_SHOWN).to_pylist()
        guesses = pipeline.guesses(vectors(some), [row["confidence"] for row in shown])
        for row, guess in zip(shown, guesses, strict=True):
            if paths := places.get(row["hash"]):
                yield {"image": str(present(paths)), **row, "guess": guess, "places": sorted(paths)}


def write_sidecars(tables: Tables, folder: Path, overwrite: bool, xmp: bool) -> tuple[int, list[Path]]:
    """See `Library.export_sidecars`."""
    places = tables.places()
    written, left = 0, []
    for batch in tables.batches("contents", ["hash", "captions"]):
        for row in batch.to_pylist():
            for photo in map(Path, places.get(row["hash"], ())):
                if not photo.is_relative_to(folder) or not photo.is_file():
                    continue
                sidecar = Path(f"{photo}.xmp" if xmp else f"{photo}.txt")
                caption = row["captions"][0]
                content = _xmp(sidecar, caption, overwrite) if xmp else _text(sidecar, caption, overwrite)
                if content is None:
                    left.append(sidecar)
                    continue
                with atomic_path(sidecar) as temporary:
                    temporary.write_bytes(content)
                written += 1
    return written, sorted(left)


def _text(sidecar: Path, caption: str, overwrite: bool) -> bytes | None:
    content = f"{caption}\n".encode()
    return content if overwrite or not sidecar.exists() or sidecar.read_bytes() == content else None


def _xmp(sidecar: Path, caption: str, overwrite: bool) -> bytes | None:
    """The sidecar with the caption as its description and alternative text; None if others have described the photo.

    What was written here is marked with the caption itself, so that it is known again, and a change by hand too.

    Raises:
        ValueError: There is a sidecar that cannot be read.
    """
    for prefix, namespace in _PREFIXES.items():
        ET.register_namespace(prefix, namespace)
    if sidecar.exists():
        try:
            for _, (prefix, namespace) in ET.iterparse(sidecar, ["start-ns"]):
                if namespace not in _PREFIXES.values() and not prefix.startswith("ns"):
                    ET.register_namespace(prefix, namespace)
            root = ET.parse(sidecar).getroot()
        except ET.ParseError as error:
            raise ValueError(f"{sidecar}: is no XMP ({first_line(error)})") from None
    else:
        root = ET.Element(f"{{{_X}}}xmpmeta")
    rdf = root if root.tag == f"{{{_RDF}}}RDF" else root.find(f"{{{_RDF}}}RDF")
    if rdf is None:
        rdf = ET.SubElement(root, f"{{{_RDF}}}RDF")
    described = rdf.find(f"{{{_RDF}}}Description")
    if described is None:
        described = ET.SubElement(rdf, f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    mark, fields = f"{{{_OWN}}}generated", (f"{{{_DC}}}description", f"{{{_IPTC}}}AltTextAccessibility")
    own = [d.get(mark) for d in rdf.findall(f"{{{_RDF}}}Description") if d.get(mark) is not None]
    for field in fields:
        for parent in rdf.findall(f"{{{_RDF}}}Description"):
            for found in parent.findall(field):
                said = "".join(found.itertext()).strip()
                if said and said not in own and not overwrite:
                    return None
                parent.remove(found)
    for parent in rdf.findall(f"{{{_RDF}}}Description"):
        parent.attrib.pop(mark, None)
    described.set(mark, caption)
    for field in fields:
        alternatives = ET.SubElement(ET.SubElement(described, field), f"{{{_RDF}}}Alt")
        ET.SubElement(alternatives, f"{{{_RDF}}}li", {_LANGUAGE: "x-default"}).text = caption
    ET.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n"
