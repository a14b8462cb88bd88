"""One photo from disk, bytes or PIL, opened safely, upright, in sRGB; preprocessing, which travels with an encoder."""

from mrnn.images.dates import date_of
from mrnn.images.kinds import (
    IMAGE_SUFFIXES,
    RAW_SUFFIXES,
    ImageError,
    ImageSource,
    PhotoFile,
    PreparedPhoto,
    StoredPhoto,
    readable_suffixes,
)
from mrnn.images.metadata import SIDEWAYS
from mrnn.images.opening import (
    MAX_PIXELS,
    OpenedPhoto,
    open_image,
    open_photo,
    pixels_to_decode,
    read_photo,
    said_date,
)
from mrnn.images.preprocessing import Preprocessing

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "SIDEWAYS",
    "ImageError",
    "ImageSource",
    "OpenedPhoto",
    "PhotoFile",
    "PreparedPhoto",
    "Preprocessing",
    "StoredPhoto",
    "date_of",
    "open_image",
    "open_photo",
    "pixels_to_decode",
    "read_photo",
    "readable_suffixes",
    "said_date",
]
