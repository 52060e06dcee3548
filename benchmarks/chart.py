"""The run as one picture: how much faster than sentence-transformers' defaults, passages."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.models import TITLES
from benchmarks.plan import ENGINES, SCOPES, defaults_of
from benchmarks.samples import Samples

COLOURS = ("#9aa5b1", "#6b7785", "#c9a227", "#8ec6c0", "#2a9d8f", "#17635a")
BAR, GAP = 0.8, 1.2


def draw(samples: Samples, models: Sequence[str], target: Path) -> None:
    """Write the PNG: a group of bars for each model, labelled with tokens a second."""
    mpl.use("Agg")
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 2.1 * len(models)), dpi=150)
    place, middles = 0.0, []
    labels = {engine.id: engine.title for engine in ENGINES}
    for model in models:
        engines = SCOPES[model].own_engines()
        middles.append(place + (len(engines) - 1) / 2)
        first = (model, defaults_of(model).id, "passages", "tokens_per_s")
        for number, engine in enumerate(engines):
            key = (model, engine.id, "passages", "tokens_per_s")
            ratio, rate = samples.ratio(key, first), samples.median(*key)
            if ratio is None or rate is None:
                continue
            colour, label = COLOURS[ENGINES.index(engine)], labels.pop(engine.id, None)
            axes.barh(place + number, ratio, BAR, color=colour, label=label)
            text = f"  {ratio:.1f} x   {rate:,.0f}"
            axes.text(ratio, place + number, text, va="center", fontsize=8)
        place += len(engines) + GAP
    axes.set_yticks(middles, [TITLES[model].replace(", ", "\n") for model in models])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("times sentence-transformers' defaults (beside it: tokens a second)")
    axes.set_title("Passages, in process", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(target)
    pyplot.close(figure)
