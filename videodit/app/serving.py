"""The page and the files of the named folders over HTTP: nothing else of this machine, to nobody but it by default.

Gradio serves its page and what was uploaded to it; clips, reports and copies are served here, by their names, from
their folders. Nothing is sent anywhere.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from videodit.evaluation.report.results import load_results

if TYPE_CHECKING:
    from fastapi import FastAPI

    from videodit.app.studio import Studio

MAX_UPLOAD = 256 * 2**20  # bytes
HERE = ("127.0.0.1", "localhost", "::1")
REPORT = "report.html"


def bound(host: str, port: int) -> socket.socket:
    """The socket to serve at, taken before anything is loaded; port 0 is any that is free.

    Raises:
        ValueError: the port is taken, or the host is none of this machine; names the fix.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host {host}: is no address of this machine ({error.strerror}); leave it out") from error
    taken = socket.socket(family, kind, protocol)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
        taken.listen()
    except OSError as error:
        taken.close()
        why = error.strerror or str(error)
        raise ValueError(f"--port {port}: cannot be had at {host} ({why}); give another, or 0 for any") from error
    return taken


def reports_in(folders: Sequence[Path]) -> list[Path]:
    """The folders, each of which has a report. ValueError: one has none; names the fix."""
    for folder in folders:
        if not (folder / REPORT).is_file():
            raise ValueError(f"{folder}: has no {REPORT}; videodit evaluate CLIPS --out {folder} writes one")
        load_results(folder / "results.json")
    return [folder.absolute() for folder in folders]


def serve(taken: socket.socket, host: str, studio: Studio, reports: Sequence[Path]) -> None:
    """Serves until it is stopped (Ctrl-C)."""
    import uvicorn

    logging.getLogger("videodit.app").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="videodit-") as scratch:
        app = application(studio, reports, Path(scratch), host)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        try:
            uvicorn.Server(config).run(sockets=[taken])
        finally:
            studio.close()


class OwnPages:
    """Answers nothing that another site's page, or a report in its frame, asks for: a browser says who asks."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        said = Headers(scope=scope) if scope["type"] == "http" else {}
        answer = self.app
        if "origin" in said and urlsplit(said["origin"]).netloc != said.get("host"):
            answer = PlainTextResponse("this page answers its own scripts alone\n", 403)
        await answer(scope, receive, send)


def application(studio: Studio, reports: Sequence[Path], scratch: Path, host: str = "127.0.0.1") -> FastAPI:
    """The web application. `scratch` is for uploads and copies, and goes with the process."""
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.staticfiles import StaticFiles

    from videodit.app.page import CSS, HEAD, page, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in HERE:  # a page elsewhere whose name is pointed at this machine gets nothing
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*HERE, "[::1]"])
    app.add_middleware(OwnPages)
    app.mount("/clips", StaticFiles(directory=studio.out))

    @app.get("/copies/{name}")
    def copy(name: str) -> FileResponse:
        try:
            return FileResponse(studio.copy(Path(name).stem, Path(name).suffix, scratch), filename=name)
        except (ValueError, OSError) as error:
            raise HTTPException(404, str(error)) from error

    @app.get("/reports/{number}")
    def report(number: int) -> FileResponse:
        if not 0 <= number < len(reports):
            raise HTTPException(404, "there is no such report here")
        return FileResponse(reports[number] / REPORT, media_type="text/html")

    return gr.mount_gradio_app(
        app,
        page(studio, reports),
        path="/",
        server_name=host,
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css_paths=[CSS],
        head=HEAD,
    )
