"""Serve the page, to this machine alone."""

import os
import signal
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from reco.errors import RecoError
from reco.photos.page.gate import PHOTO_BYTES, Gate
from reco.photos.page.view import build, load_gradio
from reco.photos.segmenter import load
from reco.progress import LOG

if TYPE_CHECKING:
    from gradio import Blocks
    from starlette.types import ASGIApp

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]  # a page of another name may not talk to this one through the browser
POLICY = (  # browsers keep to it: no other host is asked, no other page may frame this one
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-ancestors 'none'"
)
FONTS = ["system-ui", "sans-serif"]  # those of the machine
CSS = """
.trouble textarea { font-weight: 600; }
#asked { position: sticky; top: 1rem; align-self: flex-start; }
.archive .grid-wrap { padding-top: 1.6rem; max-height: none; }
"""


def serve(
    experiment: str | None = None,
    *,
    index: Path | None = None,
    config: Path | None = None,
    port: int = 7860,
) -> None:
    """Serve the page at http://127.0.0.1:<port> until Ctrl-C.

    What is uploaded or drawn lies in a temporary folder, which goes when this ends.

    Args:
        experiment, index, config: see `reco.load`.

    Raises:
        RecoError: Gradio is not installed, the port is taken, or what `reco.load` raises.
    """
    with TemporaryDirectory(prefix="reco-app-") as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a closed terminal; not with nohup
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        load_gradio(folder)
        import uvicorn

        with _listen(port) as listener:
            page = build(load(experiment, index=index, config=config))
            settings = uvicorn.Config(
                _guarded(page, Path(folder), port),
                ws="none",
                log_level="warning",
                timeout_graceful_shutdown=1,  # open pages hold connections for ever
                headers=[
                    ("Content-Security-Policy", POLICY),
                    ("X-Content-Type-Options", "nosniff"),
                ],
            )
            LOG.info("open http://%s:%d in a browser; Ctrl-C ends it", HOST, port)
            uvicorn.Server(settings).run(sockets=[listener])


def _guarded(page: "Blocks", folder: Path, port: int) -> "ASGIApp":
    """The page as a web application that reads files of `folder` alone."""
    gr = load_gradio()
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    outer = FastAPI(openapi_url=None)
    inputs = {number: len(function.inputs) for number, function in page.fns.items()}
    outer.add_middleware(Gate, folder=folder, inputs=inputs)
    outer.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)  # added last: asked first
    # Not page.launch(): it knows how to open tunnels, and goes through proxies to itself.
    gr.mount_gradio_app(
        outer,
        page,
        path="/",
        server_name=HOST,
        server_port=port,
        root_path="",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=PHOTO_BYTES,
        theme=gr.themes.Default(font=FONTS, font_mono=FONTS),
        css=CSS,
    )
    page.has_launched = True  # else Gradio takes every file for one of the page's own
    return outer


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise RecoError(
            f"port {port} of {HOST}: {os.strerror(error.errno or 0)}: end what uses it, or name "
            "another with --port"
        ) from None
