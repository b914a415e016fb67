"""Compare orders of input channels at four threads: as they come, found on calibration images, and drawn by chance.

    python scripts/compare_orders.py ORDERS key=value ...

takes so many random orders (2 or more) and the settings of `bnrecal`, and prints two Markdown tables, over the networks
of Table 1 or (with model=NAME) for one of them: top-1 without and with recalibration, and how often threads collide.
The number behind ± of a mean over random orders is the standard error over the orders; behind ± of a difference it is
that of the difference on the same images, over the orders too where they are part of it. A star stands where its
p-value is below 0.05.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.commands.cli.schemas import Table1Config
from bnrecal.config import parse
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.significance import over_seeds
from bnrecal.evaluation.standard_error import of_mean
from bnrecal.experiment import baselines
from bnrecal.experiment.layer_report import gather_collisions
from bnrecal.experiment.networks import ThreadedNetwork, prepare_variants
from bnrecal.experiment.run import measure
from bnrecal.experiment.setup import Experiment, load, prepare
from bnrecal.experiment.variant import Variant

FOUND = ("none", "activity", "bits")
HEADER = ("network", "recalibration", *FOUND, "random")
DIFFERENCES = ("activity - none", "bits - none", "random - none", "activity - random", "bits - random")

Rights = Mapping[str, Sequence[Bools]]  # by kind of order, for each order which images were right


def main() -> None:
    """Measure network by network, and print its rows as soon as they are known."""
    if len(sys.argv) < 2 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 2:
        raise BnrecalError("give the number of random orders, 2 or more, then key=value settings")
    orders = {how: [how] for how in FOUND} | {"random": [f"random:{n}" for n in range(int(sys.argv[1]))]}
    overrides = sys.argv[2:]
    one = [override.partition("=")[2] for override in overrides if override.startswith("model=")]
    models = one or list(dict.fromkeys(row.model for row in read_config(Table1Config, []).rows))
    counts = []
    print(_line([*HEADER, *DIFFERENCES]), _line(["---"] * (len(HEADER) + len(DIFFERENCES))), sep="\n", flush=True)
    for model in models:
        experiment = prepare(load(parse(compose_config("config", [*overrides, f"model={model}", "recal=true"]))))
        variants = {}
        for how, given in orders.items():
            variants[how] = [Variant(4, False, reorder=one) for one in given]
        plain = [variant for group in variants.values() for variant in group]
        prepared = prepare_variants(experiment, [*plain, *map(_recal, plain)])
        outcomes = measure(experiment, prepared, baselines.load(experiment))
        for recal in (False, True):
            right = {}
            for how, group in variants.items():
                right[how] = [outcomes[_recal(variant) if recal else variant].top1 for variant in group]
            print(_line([model, "with" if recal else "without", *levels(right), *differences(right)]), flush=True)
        collisions = []
        for group in variants.values():
            collisions.append(np.mean([steps(experiment, prepared[variant]) for variant in group], 0))
        counts.append([model, *(f"{100 * s[0]:.1f} %" for s in collisions), *(f"{s[1]:.2f}" for s in collisions)])
    names = [f"{what}: {how}" for what in ("colliding steps", "lost operands per step") for how in orders]
    print("", _line(["network", *names]), _line(["---"] * (1 + len(names))), *map(_line, counts), sep="\n")


def levels(right: Rights) -> list[str]:
    """Top-1 in %; of random orders the mean with its standard error over the orders."""
    tops = [100 * float(one.mean()) for one in right["random"]]
    spread = of_mean(np.array(tops), ddof=1)
    return [*(f"{100 * right[how][0].mean():.2f}" for how in FOUND), f"{np.mean(tops):.2f} ± {spread:.2f}"]


def differences(right: Rights) -> list[str]:
    """Of top-1 on the same images, in points."""
    reported = []
    for pair in DIFFERENCES:
        one, other = (np.array(right[how], dtype=np.float64) for how in pair.split(" - "))
        found = over_seeds(one - other)
        reported.append(f"{found.points:+.2f} ± {found.stderr:.2f}{' *' if found.significant else ''}")
    return reported


def steps(experiment: Experiment, prepared: ThreadedNetwork) -> npt.NDArray[np.float64]:
    """On calibration images: the share of colliding steps, and how many operands lose bits per step."""
    threaded = [
        s for name, s in gather_collisions(experiment, prepared).items() if prepared.layers[name].spec.threads > 1
    ]
    colliding = sum(sum(s.steps_by_active[2:]) for s in threaded)
    reduced = [count for s in threaded for count in (s.reduced_activations, s.reduced_weights)]
    lost = np.nan if None in reduced else sum(count or 0 for count in reduced)  # a policy from outside does not say
    return np.array([colliding, lost], np.float64) / sum(s.steps for s in threaded)


def _recal(variant: Variant) -> Variant:
    return Variant(variant.threads, True, variant.layers, variant.reorder)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    with one_line_errors():
        main()
