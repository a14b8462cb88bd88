"""The verb serve."""

import os
import socket
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
    token_file: Annotated[Path | None, arg(metavar="FILE")] = None,
    root_path: Annotated[str, arg(metavar="/PATH")] = "",
    device: Device = None,
) -> int:
    """Serve the web page and the JSON API.

    Args:
        model: Bundled model, folder or hub name.
        library: Folder of the photo library that can be searched, if there is one.
        index: Folder of photos to keep the library up to date with while serving.
        host: Address to listen on; any other than this machine's own needs a token.
        port: To listen on.
        token: That every request must bear. All who use this machine see it in the list of processes: better name a
            file, or set MRNN_TOKEN.
        token_file: A file that holds the token.
        root_path: Where a proxy has put the server, such as /photos.
        device: Where to compute.
    """
    if token_file is not None:
        if token:
            raise Usage("give one token, by --token or by --token-file")
        from mrnn.files import read_text

        token = read_text(token_file).strip()
        if not token:
            raise ValueError(f"{token_file}: holds no token")
        if len(token.split()) > 1:
            raise ValueError(f"{token_file}: holds more than a token, which is one word")
    token = token or os.environ.get("MRNN_TOKEN", "")
    if root_path and not root_path.startswith("/"):
        raise Usage(f"--root-path {root_path}: begins with a slash, such as /photos")
    if not 0 <= port < 2**16:
        raise Usage(f"--port {port}: there are 0 to 65535")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ValueError("the web page needs an extra: pip install 'mrnn[web]'") from None
    from mrnn.library import Library, default_library, place_of
    from mrnn.web import create_app, is_loopback
    from mrnn.web.server import Server, give_memory_back

    if not is_loopback(host) and not token:
        raise Usage(f"{host} can be reached from elsewhere: give a token by --token-file, --token or in MRNN_TOKEN")
    if index is not None and not index.is_dir():
        raise ValueError(f"{index}: no such folder")
    give_memory_back()
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
    server = Server(create_app(pipeline, photos, index, token or None), host, port, root_path.rstrip("/"))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(server.config.backlog)
        except OSError as error:
            raise ValueError(f"cannot listen on {host}, port {port} ({error.strerror})") from None
        name = f"[{host}]" if ":" in host else host
        say(
            f"http://{name}:{bound.getsockname()[1]}{server.config.root_path}"
            + ("" if photos is None else f"  {len(photos):,} photos in {place}")
        )
        server.run([bound])
    return 0
