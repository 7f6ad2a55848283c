"""How a command begins and ends: without lines that its user can do nothing about, and with one where it fails.

torchao, where it is installed, is imported by diffusers and transformers as soon as either is, and prints five lines on
machines that it was not built for. So it is hidden from them until something is to be quantized, and then is imported
with nothing said.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from videodit.terminal import shown

# how a command ends: its user stopped it, a number that is none, what a user can mend
STATUS: dict[type[BaseException], int] = {
    KeyboardInterrupt: 130,
    FloatingPointError: 1,
    ValueError: 2,
    OSError: 2,
    ImportError: 2,
}
NOBODY_READS = 141  # as shells have it of a command that SIGPIPE ended


def command(main: Callable[[], int]) -> Callable[[], int]:
    """A command's `main`, whose errors that a user can mend are one line under the command's name, and its status.

    An error may bring a `status` of its own; others are bugs, and come with their traceback.
    """

    @functools.wraps(main)
    def ends() -> int:
        try:
            ended = main()
            sys.stdout.flush()
            return ended
        except BaseException as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                return NOBODY_READS
            status = getattr(error, "status", next((s for kind, s in STATUS.items() if isinstance(error, kind)), None))
            if status is None:
                raise
            below = "\n" if isinstance(error, KeyboardInterrupt) else ""  # a progress bar
            said = str(error) or ("stopped" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
            print(f"{below}{Path(sys.argv[0]).stem}:", *shown(said).split(), file=sys.stderr)  # on one line
            return status

    return ends


def _nobody_reads() -> bool:
    """Whether what is printed goes nowhere any more, as into `head`, which has enough; it is let go of then."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)  # errors are told in any case
    if gone := bool(pipe.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def hide_torchao() -> None:
    """Until `import_torchao`, libraries find none; where it is imported already, nothing is done."""
    modules: Any = sys.modules
    modules.setdefault("torchao", None)  # so Python is told that there is no such module


def import_torchao() -> None:
    """Before diffusers and transformers are, with nothing said; where there is none, nothing is done."""
    if sys.modules.get("torchao", None) is None:
        sys.modules.pop("torchao", None)
    if "torchao" in sys.modules or importlib.util.find_spec("torchao") is None:
        return
    logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)
    aside, logged = io.StringIO(), logging.root.manager.disable
    with contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            import torchao.quantization

            with contextlib.suppress(ImportError):  # what diffusers would import next, with words of its own
                import torchao.prototype.mx_formats  # noqa: F401
        finally:
            logging.disable(logged)


def load_without_bars() -> None:
    """Loading a model's parts shows no bars of its own: the bar to watch is that of the work."""
    from diffusers.utils.logging import disable_progress_bar as without_diffusers
    from transformers.utils.logging import disable_progress_bar as without_transformers

    without_diffusers()
    without_transformers()
