"""The web page and the JSON API beside it; `create_app` makes the server."""

from mrnn.web.app import create_app
from mrnn.web.guard import Limits, is_loopback

__all__ = ["Limits", "create_app", "is_loopback"]
