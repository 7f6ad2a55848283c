"""The measures that networks take, by name: what each is, which way is better, what it needs."""

from __future__ import annotations

from videodit.evaluation.measure.pixels import ConsistencyVariant
from videodit.evaluation.report.results import Metric

RECALL_AT = (1, 5, 10)

_FIRST_PREV = "Mean over frames of the cosines with the first and with the previous one, each at least 0, halved, on "
_VARIANTS: tuple[tuple[str, ConsistencyVariant, str], ...] = (
    ("consecutive", "consecutive", "Mean cosine of neighbouring frames, on "),
    ("all pairs", "all-pairs", "Mean cosine of all pairs of frames (Tune-A-Video's competition code), on "),
    ("first prev", "first+prev", _FIRST_PREV),
)


def _consistency_metric(title: str, variant: ConsistencyVariant, definition: str, network: str) -> Metric:
    return Metric(
        name=title.lower().replace(" ", "_"),
        title=title,
        definition=definition,
        unit="cosine",
        variant=variant,
        rewards_stillness=True,
        needs=f"{network} weights",
    )


def _consistency_metrics(network: str, features: str) -> list[Metric]:
    return [
        _consistency_metric(f"{network} consistency {words}", variant, rule + features, network.lower())
        for words, variant, rule in _VARIANTS
    ]


FEATURE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *_consistency_metrics("CLIP", "CLIP's projected image features"),
        *_consistency_metrics("DINO", "DINO's class token"),
        _consistency_metric(
            "VBench subject consistency",
            "first+prev",
            f"{_FIRST_PREV}DINO's class token, frames prepared as in VBench (Huang et al. 2024)",
            "dino",
        ),
        _consistency_metric(
            "VBench background consistency",
            "first+prev",
            f"{_FIRST_PREV}CLIP's projected image features, frames prepared as in VBench (Huang et al. 2024)",
            "clip",
        ),
        Metric(
            name="clip_text_alignment",
            title="CLIP text alignment",
            definition="Mean over frames of the cosine between CLIP's features of frame and prompt, neither clamped "
            "nor scaled, as CLIPScore is (Hessel et al. 2021)",
            unit="cosine",
            needs="clip weights",
        ),
        Metric(
            name="vbench_aesthetic_quality",
            title="VBench aesthetic quality",
            definition="Mean over frames of a tenth of LAION's linear aesthetic score, on CLIP's projected image "
            "features of length 1, frames prepared as in VBench (Huang et al. 2024): about 0.4 to 0.7 for photographs",
            rewards_emptiness=True,
            needs="clip and aesthetic weights",
        ),
        Metric(
            name="vbench_dynamic_degree",
            title="VBench dynamic degree",
            definition="1 where the fastest 5 % of pixels pass 6/256 of the short side (more below 8 frames a second), "
            "by RAFT between frames an eighth of a second apart, in a quarter as many transitions as there are such "
            "frames (VBench, Huang et al. 2024)",
            better="neither",
            unit="share",
            rewards_emptiness=True,
            needs="raft weights",
        ),
        *(
            Metric(
                name=f"clip_{name}_r{k}",
                title=f"CLIP {title} R@{k}",
                definition=f"Share of clips {what} is among the {k} nearest by the cosine of CLIP's features, a "
                "clip's the mean of its frames' of length 1; what is equally near counts as nearer",
                unit="share",
                needs="clip weights",
            )
            for name, title, what in (
                ("text_to_video", "text to video", "for whose prompt one of its own clips"),
                ("video_to_text", "video to text", "whose own prompt"),
            )
            for k in RECALL_AT
        ),
        Metric(
            name="lpips_temporal",
            title="LPIPS between neighbouring frames",
            definition="Mean LPIPS (Zhang et al. 2018, AlexNet, version 0.1) between neighbouring frames",
            better="lower",
            rewards_stillness=True,
            needs="lpips",
        ),
        Metric(
            name="lpips_paired",
            title="LPIPS to the reference",
            definition="Mean LPIPS (Zhang et al. 2018, AlexNet, version 0.1) between each frame and the reference's",
            better="lower",
            needs="lpips",
        ),
    )
}
