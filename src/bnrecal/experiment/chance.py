"""A float32 network that answers by chance: its labels, weights or images are wrong, and so would be every number."""

from dataclasses import replace

from scipy.stats import binom

from bnrecal.device import with_fitting_batches
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import Correctness, evaluate, percent
from bnrecal.experiment.setup import Experiment

PROBE_IMAGES = 256
_SURE = 0.05
_LOW = 0.25  # top-1 below which labels counted from 1 are looked for; classes beside each other are often alike


def at_chance(correct: int, images: int, classes: int) -> bool:
    """Return whether so few right answers are what wrong labels give, and not what a trained network gives.

    Labels in another order still fit a few classes by accident, a share that falls more slowly with the number of
    classes c than 1/c: taken as c**-0.75 (1 or 2 classes in 10, 5 or 6 in 1,000). A network that can do something is
    taken to be right at least as often as c**-0.5. The answer is yes where the first explains the count and the second
    does not, each by a binomial test at 5 %; so a few images never are at chance.
    """
    by_skill = float(binom.cdf(correct, images, classes**-0.5))
    return _by_accident(correct, images, classes) > _SURE and by_skill < _SURE


def _by_accident(correct: int, images: int, classes: int) -> float:
    """The probability that labels in another order give so many right answers or more."""
    return float(binom.sf(correct - 1, images, classes**-0.75))


def refuse_chance(experiment: Experiment, known: Correctness | None) -> None:
    """Stop an experiment whose float32 network answers by chance, before anything long is computed.

    Args:
        known: float32's outcome from an earlier run; without one a few validation images are evaluated.
    """
    if experiment.config.data.allow_chance:
        return
    outcome = known or _probe(experiment, 0)
    classes = experiment.source.num_classes
    hint = _counted_from_1(experiment, outcome)
    if not hint and not at_chance(int(outcome.top1.sum()), outcome.images, classes):
        return
    raise BnrecalError(
        f"float32 top-1 is {percent(outcome.top1):.2f} % on {outcome.images:,} validation images, hardly better than "
        f"chance among {classes:,} classes{hint}: check the order of the labels (data.root), the weights "
        "(model.checkpoint) and the preprocessing (model.mean, std, resize, crop), or go on with data.allow_chance=true"
    )


def _counted_from_1(experiment: Experiment, outcome: Correctness) -> str:
    """In words, that labels lower by 1 fit; empty where they do not, or where the labels as they are do."""
    share = float(outcome.top1.mean())
    if share >= _LOW:
        return ""
    lower = _probe(experiment, -1)
    accident = _by_accident(int(lower.top1.sum()), lower.images, experiment.source.num_classes)
    if accident > 0.001 or float(lower.top1.mean()) < 2 * share:
        return ""
    return f"; with every label lower by 1 it is {percent(lower.top1):.1f} %, so labels are counted from 1"


def _probe(experiment: Experiment, shift: int) -> Correctness:
    """Float32's outcome on a few validation images spread over all, with every label moved by `shift`."""
    every = experiment.validation.indices
    count = min(PROBE_IMAGES, len(every))
    spread = tuple(every[place * len(every) // count] for place in range(count))
    selection = replace(experiment.validation, label="float32", indices=spread)
    offset = experiment.model.label_offset + shift

    def on_batches(size: int) -> dict[str, Correctness]:
        batches = experiment.loader.batches(selection, size)
        return evaluate({"float32": experiment.model.network}, batches, label_offset=offset)

    return with_fitting_batches("evaluation", experiment.batch_size, on_batches)["float32"]
