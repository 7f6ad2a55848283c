"""The page, served to a test: in a thread of this process, with a model that is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videodit.app.serving import application, bound
from videodit.app.studio import Studio


@contextmanager
def served(studio: Studio, reports: Sequence[Path], scratch: Path) -> Iterator[str]:
    """Its address."""
    import uvicorn

    scratch.mkdir()
    taken, started = bound("127.0.0.1", 0), threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            started.set()

    app = application(studio, reports, scratch)
    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        assert started.wait(120)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        taken.close()
