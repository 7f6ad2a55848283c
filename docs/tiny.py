"""A text-to-video diffusion transformer on one page: a prompt becomes a thing of its colour after a minute on one core.

    python docs/tiny.py          trains 800 steps, or as many as you say behind it, and writes tiny.gif

What videodit does, without what makes it fast, general and safe: no VAE (pixels are few here), no text encoder (a row
of a table a word), no files (the world of shapes draws its clips).

`b` clips, `c` colours, `f` frames, `h w` rows and columns; tokens are `b f s d`: s places in a frame, d numbers each.
"""

import sys
from itertools import pairwise

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss, scaled_dot_product_attention, silu

from videodit.geometry import ClipSize
from videodit.shapes import ShapesWorld, vocabulary_captions

FRAMES, SIDE = 8, 16  # of a clip, and the piece of it that becomes a token: 2 frames of 4x4 pixels
PATCH = {"pt": 2, "ph": 4, "pw": 4}
WIDTH, HEADS, LAYERS = 64, 4, 3  # a layer is two blocks: along space, along time
WORDS = ["<start>", *sorted({word for text in vocabulary_captions() for word in text.split()})]
CUT = "b c (f pt) (h ph) (w pw) -> b f (h w) (c pt ph pw)"


def tokenize(captions: list[str], length: int = 16) -> tuple[Tensor, Tensor]:
    """Numbers of words, b m, and which of them are words, b m. All begin with <start>, which is all that "" has."""
    rows = [[0, *(WORDS.index(word) for word in text.split())] for text in captions]
    numbers = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return numbers, torch.arange(length) < torch.tensor([[len(row)] for row in rows])


class Attention(nn.Module):
    """Each query takes a mean of the values, weighed by how well their keys fit it: n q d, n k d -> n q d."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (rearrange(y, "n m (h e) -> n h m e", h=self.heads) for y in (self.q(x), self.k(seen), self.v(seen)))
        return self.out(rearrange(scaled_dot_product_attention(q, k, v, mask), "n h m e -> n m (h e)"))


class Block(nn.Module):
    """The image DiT's block; its axis says which tokens see each other: those of a frame, or those of a place.

    The time of diffusion sets shift, scale and gate of two parts (adaLN-single: one for all blocks, and a table here).
    """

    def __init__(self, width: int, heads: int, axis: str):
        super().__init__()
        self.group = {"space": "(b f) s d", "time": "(b s) f d"}[axis]
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.look, self.read = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        b, f, s, d = x.shape
        told = rearrange(modulation, "b (k d) -> k b 1 1 d", k=6) + rearrange(self.table, "k d -> k 1 1 1 d")
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = told
        tokens = rearrange(layer_norm(x, (d,), eps=1e-6) * (1 + scale_1) + shift_1, f"b f s d -> {self.group}")
        x = x + gate_1 * rearrange(self.look(tokens, tokens), f"{self.group} -> b f s d", b=b, s=s, f=f)
        asked = self.read(rearrange(x, "b f s d -> b (f s) d"), text, rearrange(mask, "b m -> b 1 1 m"))
        x = x + rearrange(asked, "b (f s) d -> b f s d", f=f)
        return x + gate_2 * self.mlp(layer_norm(x, (d,), eps=1e-6) * (1 + scale_2) + shift_2)


class Model(nn.Module):
    """A noised clip b c f h w, how noised it is (b, in [0, 1]) and words b m -> the clip as it guesses, b c f h w."""

    def __init__(self) -> None:
        super().__init__()
        numbers = 3 * PATCH["pt"] * PATCH["ph"] * PATCH["pw"]
        self.embed, self.head = nn.Linear(numbers, WIDTH), nn.Linear(WIDTH, numbers)
        self.places = nn.Parameter(torch.randn(FRAMES // PATCH["pt"], (SIDE // PATCH["ph"]) ** 2, WIDTH))
        self.words = nn.Embedding(len(WORDS), WIDTH)
        self.time = nn.Sequential(nn.Linear(64, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, axis) for _ in range(LAYERS) for axis in ("space", "time"))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        tokens = self.embed(rearrange(x, CUT, **PATCH)) + self.places
        waves = 1000 * t[:, None] * torch.logspace(0, -4, 32)
        modulation = self.modulation(silu(self.time(torch.cat([waves.sin(), waves.cos()], dim=1))))
        for block in self.blocks:
            tokens = block(tokens, modulation, self.words(words), mask)
        out = self.head(layer_norm(tokens, (WIDTH,)))
        return rearrange(out, " -> ".join(reversed(CUT.split(" -> "))), h=SIDE // PATCH["ph"], **PATCH)


def velocity(model: nn.Module, x: Tensor, t: Tensor, words: tuple[Tensor, Tensor]) -> Tensor:
    """Where the line through x leads, noise - clip. The clip is what the model guesses: it is simple, noise is not."""
    return (x - model(x, t, *words)) / rearrange(t.clamp(min=0.05), "b -> b 1 1 1 1")


def loss(model: nn.Module, clips: Tensor, captions: list[str]) -> Tensor:
    """Flow matching: on the straight line from a clip (t = 0) to noise (t = 1), guess where it leads."""
    t, noise = torch.randn(len(clips)).sigmoid(), torch.randn_like(clips)
    along = rearrange(t, "b -> b 1 1 1 1")
    told = [text if torch.rand(()) > 0.1 else "" for text in captions]  # that it knows what no caption means
    return mse_loss(velocity(model, (1 - along) * clips + along * noise, t, tokenize(told)), noise - clips)


@torch.no_grad()
def sample(model: nn.Module, prompts: list[str], steps: int = 30, guidance: float = 2.0) -> Tensor:
    """From noise to clips against the velocity, b c f h w, going past what no caption says (Ho & Salimans 2022)."""
    words, nothing = tokenize(prompts), tokenize(["" for _ in prompts])
    x, times = torch.randn(len(prompts), 3, FRAMES, SIDE, SIDE), torch.linspace(1, 0, steps + 1)
    times = 3 * times / (1 + 2 * times)  # more steps where there is much noise: there it is decided what moves where
    for now, then in pairwise(times):
        told, untold = (velocity(model, x, now.expand(len(x)), which) for which in (words, nothing))
        x = x + (then - now) * (untold + guidance * (told - untold))
    return x.clamp(-1, 1)


def train(steps: int, scenes: int = 2048, batch: int = 16) -> Model:
    model, world = Model(), ShapesWorld(ClipSize(FRAMES, SIDE, SIDE, fps=4.0), num_things=1)
    world.allowed = [one for one in world.allowed if one[2] in ("left", "right", "up", "down")]  # a minute is short
    drawn = [world[number] for number in range(scenes) if world.scene(number).background == "black"]
    pixels = torch.stack([rearrange(torch.from_numpy(one.frames), "f h w c -> c f h w") for one in drawn])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = torch.randint(len(drawn), (batch,))
        error = loss(model, pixels[chosen] / 127.5 - 1, [drawn[number].captions[step % 4] for number in chosen])
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        rate.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {error.item():.3f}", flush=True)
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    things = ("red circle moving right", "blue square rises", "green star moving left", "yellow heart falls")
    prompts = [f"a large {thing} on a black background" for thing in things]
    made = sample(train(int(sys.argv[1]) if sys.argv[1:] else 800), prompts)
    shown = rearrange(((made + 1) * 127.5).round().byte(), "b c f h w -> f h (b w) c").numpy()
    pictures = [Image.fromarray(frame).resize((512, 128), Image.Resampling.NEAREST) for frame in shown]
    pictures[0].save("tiny.gif", save_all=True, append_images=pictures[1:], duration=250, loop=0)
    print("tiny.gif:", "; ".join(prompts))
