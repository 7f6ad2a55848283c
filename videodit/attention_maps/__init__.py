"""Which word acted where and when: what places of a clip attend to, word by word, and pictures of it."""

from videodit.attention_maps.maps import Attended, WordMap, maps_of, sample_with_attention
from videodit.attention_maps.overlays import ATTENTION, INDEX, check_replaceable, overlay, write_overlays
from videodit.attention_maps.watching import Watched, check_watchable, watching

__all__ = [
    "ATTENTION",
    "INDEX",
    "Attended",
    "Watched",
    "WordMap",
    "check_replaceable",
    "check_watchable",
    "maps_of",
    "overlay",
    "sample_with_attention",
    "watching",
    "write_overlays",
]
