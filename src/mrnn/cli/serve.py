"""The verb serve."""

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mrnn.cli.console import Device, Usage, open_model, say, warn


def serve(
    model: str = "base",
    library: Annotated[str | None, arg(metavar="DIR|s3://...", help_behavior_hint="(default: as for search)")] = None,
    index: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    device: Device = "auto",
) -> int:
    """Serve the web page and the JSON API.

    Args:
        model: Bundled model, folder or hub name.
        library: Folder of the photo library that can be searched, if there is one.
        index: Folder of photos to keep the library up to date with while serving.
        host: Address to listen on; any other than this machine's own needs a token.
        port: To listen on.
        token: That every request must bear; or set MRNN_TOKEN.
        device: Where to compute.
    """
    token = token or os.environ.get("MRNN_TOKEN", "")
    if not 0 <= port < 2**16:
        raise Usage(f"--port {port}: there are 0 to 65535")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError:
        raise ValueError("the web page needs an extra: pip install 'mrnn[web]'") from None
    from mrnn.library import Library, default_library, place_of
    from mrnn.web import create_app, is_loopback

    if not is_loopback(host) and not token:
        raise Usage(f"{host} can be reached from elsewhere: give a token by --token or in MRNN_TOKEN")
    if index is not None and not index.is_dir():
        raise ValueError(f"{index}: no such folder")
    pipeline = open_model(model, device)
    place = place_of(library or default_library())
    photos = None
    if library is not None or index is not None:
        photos = Library(str(place), pipeline)
    elif place.has("library.json"):
        try:
            photos = Library(str(place), pipeline)
        except ValueError as error:  # nobody asked for it: the rest can be served
            warn(f"no search: {error}")
    app = create_app(pipeline, photos, index, token or None)
    say(f"http://{host}:{port}" + ("" if photos is None else f"  {len(photos):,} photos in {place}"))
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=30)
    return 0
