"""One photo from disk, bytes or PIL, opened safely, upright, in sRGB; preprocessing, which travels with an encoder."""

from mrnn.images.dates import date_of
from mrnn.images.kinds import (
    BY_NAME,
    IMAGE_SUFFIXES,
    RAW_SUFFIXES,
    ImageError,
    ImageSource,
    PhotoFile,
    StoredPhoto,
    readable_suffixes,
)
from mrnn.images.metadata import SIDEWAYS
from mrnn.images.opening import MAX_PIXELS, OpenedPhoto, open_image, open_photo, pixels_to_decode, read_photo
from mrnn.images.preprocessing import Preprocessing

__all__ = [
    "BY_NAME",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "SIDEWAYS",
    "ImageError",
    "ImageSource",
    "OpenedPhoto",
    "PhotoFile",
    "Preprocessing",
    "StoredPhoto",
    "date_of",
    "open_image",
    "open_photo",
    "pixels_to_decode",
    "read_photo",
    "readable_suffixes",
]
