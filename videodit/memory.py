"""How much memory a decode takes, known before a clip is made: a walk through the VAE without numbers.

The decode is run under torch's `FakeTensorMode`, where tensors have shapes but no content, and the bytes alive are
counted as they come and go. So every VAE class, dtype, size and tiling has its own figure, and no table is kept. What
libraries take besides (convolutions' work space, an allocator's gaps) is not in it, so the figure is the least that a
decode takes: more than is free is an error, and less than `MARGIN` times of it a warning.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import platform
import weakref
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videodit.codec import VideoCodec
from videodit.text import PARTS

log = logging.getLogger(__name__)

# Taken over counted, in a fresh process on a CPU: 1.0 to 2.6 over the VAE classes, and up to 300 MB besides, which is
# most of a small decode. No GPU was measured.
MARGIN, BESIDES = 3.0, 300_000_000
M_MMAP_THRESHOLD, LARGE = -3, 4 << 20  # mallopt's number for it (malloc.h), and bytes
PIECES = 3  # after which a streaming decode takes no more: the first is another, the second fills what is carried


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive of those made within."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def decode_bytes(codec: VideoCodec, shape: tuple[int, ...], *, whole: bool = True) -> int:
    """Peak bytes of the tensors of `codec.decode` for latents of this shape (b c f h w), weights not among them.

    Args:
        whole: the frames are kept and put together, float32; else each piece is let go of before the next is made
            (`codec.decode_chunks`), where a VAE that streams takes no more for a longer clip.
    """
    b, c, f, h, w = shape
    piece = codec.frames_at_once if codec.strides.time == 1 else 1
    walked = min(f, PIECES * piece) if codec.streams else f
    with torch.no_grad(), FakeTensorMode():
        model, latents = _weightless(codec), torch.empty(b, c, walked, h, w, device=codec.device)
        with Alive() as alive:
            for frames in model.decode_raw(latents):
                frames.float().clamp(-1, 1)
                del frames
    if not whole:
        return alive.peak
    pixels = 4 * b * 3 * codec.strides.pixel_frames(f) * h * w * codec.strides.space**2
    return max(alive.peak + pixels, 2 * pixels)


def _weightless(codec: VideoCodec) -> VideoCodec:
    """The same codec, with a VAE of its own; under `FakeTensorMode` its weights have no content."""
    vae, default = codec.vae, torch.get_default_dtype()
    torch.set_default_dtype(codec.dtype)  # fake weights cannot be moved or cast afterwards
    try:
        with torch.device(codec.device):
            twin = type(vae).from_config(vae.config).eval()
    finally:
        torch.set_default_dtype(default)
    for name, value in vars(vae).items():
        if isinstance(value, bool | int | float):  # slicing, tiling and its sizes
            setattr(twin, name, value)
    model = copy.copy(codec)
    model.vae = twin
    return model


def free_bytes(device: torch.device) -> int:
    """Of the device, with what torch keeps there for itself; of the machine's memory where it has none of its own."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def check_decode(codec: VideoCodec, shape: tuple[int, ...], *, whole: bool = True) -> None:
    """Warns where the decode of latents of this shape may not fit into what is free, and says what to change.

    Raises:
        ValueError: it cannot fit; says what to change too.
    """
    free = free_bytes(codec.device)
    if _at_most(codec, shape) <= free:
        return
    needed = decode_bytes(codec, shape, whole=whole)
    if MARGIN * needed + BESIDES <= free:
        return
    gigabytes = f"{needed / 1e9:.1f} GB of memory ({codec.device.type}) at the least, and {free / 1e9:.1f} are free"
    message = f"decoding {_size(codec, shape)} takes {gigabytes}; take {'; or '.join(_remedies(codec, whole))}"
    if needed > free:
        raise ValueError(message)
    log.warning("%s", message)


def _remedies(codec: VideoCodec, whole: bool) -> list[str]:
    """What makes this decode smaller."""
    fixes = ["a smaller height and width"]
    if whole or not codec.streams:
        fixes.append("fewer frames")
    if whole and codec.streams:
        fixes.append("frame by frame: output_type='latent' and pipe.codec.decode_chunks, as videodit sample does")
    if can_tile(codec.vae) and not codec.vae.use_tiling:
        fixes.append("tiles: --vae-tiling, or pipe.vae.enable_tiling()")
    if codec.dtype == torch.float32 and codec.device.type == "cuda":
        fixes.append("half precision: --dtype float16")
    return fixes


def _at_most(codec: VideoCodec, shape: tuple[int, ...]) -> int:
    """More than any decode takes, at once: ten tensors as large as the picture and as deep as the widest layer."""
    b, _, f, h, w = shape
    widest = max(weight.shape[0] for weight in codec.vae.parameters())
    return 10 * 4 * widest * b * codec.strides.pixel_frames(f) * h * w * codec.strides.space**2


def _size(codec: VideoCodec, shape: tuple[int, ...]) -> str:
    b, _, f, h, w = shape
    space = codec.strides.space
    return f"{b} x {codec.strides.pixel_frames(f)} frames of {h * space}x{w * space} in {codec.dtype}".replace(
        "torch.", ""
    )


def place(pipe: Any, offload: str) -> None:
    """Puts a pipeline onto the accelerator, where there is one.

    Args:
        offload: "none", or what diffusers keeps in the machine's memory meanwhile: with "model" the parts that do not
            work, with "group" the blocks that do not (the next one is brought while one works), with "sequential" all
            but the layer that works.

    Raises:
        ValueError: offload without an accelerator.
    """
    if not torch.accelerator.is_available():
        if offload != "none":
            raise ValueError(
                f"--offload {offload} needs an accelerator (a GPU); there is none here, so all is in memory anyway"
            )
    elif offload == "model":
        pipe.enable_model_cpu_offload(torch.accelerator.current_device_index())
    elif offload == "group":
        group_offload(pipe, torch.accelerator.current_accelerator())
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(torch.accelerator.current_device_index())
    else:
        pipe.to(torch.accelerator.current_accelerator())


def group_offload(pipe: Any, device: Any) -> None:
    """Has the transformer's blocks in the machine's memory, one or two of them at a time on the device; the rest is
    there, text encoder (until it is let go of) and VAE too."""
    pipe.transformer.enable_group_offload(
        device, num_blocks_per_group=1, use_stream=torch.device(device).type == "cuda"
    )
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and part is not pipe.transformer:
            getattr(pipe, name).to(device)


def return_large_blocks() -> None:
    """Has the C library give blocks from `LARGE` bytes on back to the system as soon as they are freed.

    glibc begins so, but keeps ever larger ones in its heap once it has seen them freed, and a long clip's windows
    leave holes there. Holds for the whole process; where the C library is another, nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def free_text_encoder(pipe: Any) -> None:
    """Lets go of a pipeline's text encoders and tokenizers; from then on it takes `prompt_embeds` alone."""
    pipe.register_modules(**dict.fromkeys(name for name in PARTS if name in pipe.components))
    pipe.maybe_free_model_hooks()  # those of `enable_model_cpu_offload` hold on to it


def can_tile(vae: Any) -> bool:
    """Whether a VAE works on tiles: some classes inherit the switch, and have nothing behind it."""
    return hasattr(vae, "enable_tiling") and hasattr(vae, "use_tiling")


def tile(vae: Any) -> None:
    """Has a VAE work on tiles. ValueError where it cannot."""
    if not can_tile(vae):
        raise ValueError(f"--vae-tiling: {type(vae).__name__} has no tiles; take a smaller height and width")
    vae.enable_tiling()
