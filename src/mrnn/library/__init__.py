"""Your own photos, indexed and searchable."""

from mrnn.library.base import IndexReport, Library, UnknownPhoto, default_library
from mrnn.library.place import place_of
from mrnn.library.searching import Filters, Found
from mrnn.library.tables import LibraryGone
from mrnn.library.walk import Walk, is_list, listed

__all__ = [
    "Filters",
    "Found",
    "IndexReport",
    "Library",
    "LibraryGone",
    "UnknownPhoto",
    "Walk",
    "default_library",
    "is_list",
    "listed",
    "place_of",
]
