"""The verb serve."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mrnn.cli.console import Usage, say


def serve(
    model: str = "base",
    library: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: as for search)")] = None,
    index: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
) -> int:
    """Serve the web page and the JSON API.

    Args:
        model: Bundled model, folder or hub name.
        library: Folder of the photo library that can be searched, if there is one.
        index: Folder of photos to bring the library up to date with while serving.
        host: Address to listen on; any other than this machine's own needs a token.
        port: To listen on.
        token: That every request must bear; or set MRNN_TOKEN.
    """
    token = token or os.environ.get("MRNN_TOKEN", "")
    if not _loopback(host) and not token:
        raise Usage(f"{host} can be reached from elsewhere: give a token by --token or in MRNN_TOKEN")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError:
        raise ValueError("the web page needs an extra: pip install 'mrnn[web]'") from None
    from mrnn.library import Library, default_library
    from mrnn.pipeline import load
    from mrnn.web import create_app

    pipeline = load(model)
    place = library or default_library()
    photos = Library(place, pipeline) if index is not None or (place / "library.json").is_file() else None
    app = create_app(pipeline, photos, index, token or None)
    say(f"http://{host}:{port}" + ("" if photos is None else f"  {len(photos):,} photos in {place}"))
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=30)
    return 0


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
