"""The settings of every command that takes `key=value`, registered with Hydra in one place.

A command's docstring, and what its keys mean, are what `bnrecal COMMAND --help` prints. Nothing here loads torch: a
wrong argument is reported at once.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from hydra.core.config_store import ConfigStore

from bnrecal.checks import sane_values
from bnrecal.config import Config, check_device, setting
from bnrecal.config import check as check_experiment
from bnrecal.errors import BnrecalError
from bnrecal.export.config import VectorsConfig
from bnrecal.reports.table1.columns import Row
from bnrecal.search.config import SearchConfig, check_search
from bnrecal.training.config import Pruning, check_pruning


@dataclass
class Table1Config(Config):
    """Table 1 of the paper, row by row.

    Every model is measured at 1, 2 and 4 threads, without and with recalibration, in one pass over the validation
    images. A finished model is kept in OUT/cells/ and not measured again; the table in OUT grows with each.
    """

    command: ClassVar[str] = "table1"

    seeds: int = setting(
        1, "so many choices of calibration images: mean, spread, a test over seeds and images", least=1
    )
    jobs: int | None = setting(
        None,
        "models measured at a time, each in a process of up to 1.5 GB; null: one per core for glyphs as far as "
        "memory has room, else 1",
        least=1,
    )
    rows: list[Row] = setting([], "which rows: configs/table1.yaml lists them")
    out: str = setting("outputs/table1", "the folder that the table goes to")

    def check(self) -> None:
        """Raise BnrecalError at the first value out of range."""
        check_experiment(self)
        if not self.rows:
            raise BnrecalError("rows=[]: give at least one row, as configs/table1.yaml lists them")
        if self.smt.plan or self.smt.layers:
            raise BnrecalError("smt.layers and smt.plan are the table's own: leave them out")


@dataclass
class Network:
    """One network of one panel of Figure 1.

    Attributes:
        panel: a, b, c.
        slow: threads of the layers that are slowed down.
        plan: whether the search gets a curve too.
        pruned: percent of the weights that were pruned; such networks get curves of their own look.
    """

    panel: str
    label: str
    model: str
    slow: int = 2
    plan: bool = True
    pruned: int = 0


@dataclass
class Figure1Config(Config):
    """Figure 1 of the paper: accuracy against speedup, without and with recalibration.

    All layers run four threads, but for the k layers of highest error. Next to it, at the same speedups, stand the
    threads that the search behind `bnrecal plan` chooses, from training images alone. A finished network is kept in
    OUT/cells/ and not measured again; the figure in OUT grows with each.
    """

    command: ClassVar[str] = "figure1"

    points: int = setting(9, "operating points per curve", least=2)
    glyph_images: int = setting(10_000, "validation images of the embedded data set; data.val_images wins over it")
    p40: str | None = setting(None, "checkpoint of the pruned ResNet-18, for data sets that none is shipped for")
    jobs: int | None = setting(
        None,
        "networks measured at a time, each in a process of up to 1.5 GB; null: one per core for glyphs as far as "
        "memory has room, else 1",
        least=1,
    )
    networks: list[Network] = setting([], "which networks in which panel: configs/figure1.yaml lists them")
    search: SearchConfig = field(default_factory=SearchConfig)
    out: str = setting("outputs/figure1", "the folder that the figure goes to")

    def check(self) -> None:
        """Raise BnrecalError at the first value out of range."""
        check_experiment(self)
        check_search(self.search)
        if not self.networks:
            raise BnrecalError("networks=[]: give at least one network, as configs/figure1.yaml lists them")
        for network in self.networks:
            if network.slow not in (1, 2):
                raise BnrecalError(f"networks: slow={network.slow} of {network.label}: choose 1 or 2")
            if not 0 <= network.pruned < 100:
                raise BnrecalError(f"networks: pruned={network.pruned} of {network.label}: choose 0 to 99 percent")
        if self.smt.plan or self.smt.layers:
            raise BnrecalError("smt.layers and smt.plan are what the figure varies: leave them out")


@dataclass
class PlanConfig(Config):
    """Choose threads per layer for a target speedup.

    Every layer gets the number of threads, out of 1, 2 and 4, with which the network loses least at that speedup, with
    recalibration. Only training images are looked at. Use the plan with

      bnrecal model=resnet18 smt.plan=PATH recal=true
    """

    command: ClassVar[str] = "plan"

    speedup: float = setting(3.0, "the least that is wanted, over all convolutions but the first")
    slow: int = setting(
        2, "threads of the slowed layers in the highest-error order, which the plan is compared with: 1 | 2"
    )
    search: SearchConfig = field(default_factory=SearchConfig)
    out: str = setting("outputs/plan", "the folder that the plan goes to")

    def check(self) -> None:
        """Raise BnrecalError at the first value out of range."""
        check_experiment(self)
        check_search(self.search)
        if self.slow not in (1, 2):
            raise BnrecalError(f"slow={self.slow}: choose 1 or 2")
        if self.smt.plan or self.smt.layers:
            raise BnrecalError("smt.layers and smt.plan are what the search finds: leave them out")


@dataclass
class PruneConfig(Config):
    """Prune a network by magnitude and retrain it, in steps.

    Weights of every quantized convolution (all but the first) are set to zero, the smallest of each layer first; after
    each step the whole network is retrained, the zeros staying zero. Progress is kept after every epoch: started again
    after an interruption, the command goes on and ends in the same weights. Use the checkpoint with
    model.checkpoint=PATH.
    """

    command: ClassVar[str] = "prune"

    prune: Pruning = field(default_factory=Pruning)
    out: str = setting("outputs/prune", "the folder that the checkpoint goes to")

    def check(self) -> None:
        """Raise BnrecalError at the first value out of range."""
        check_experiment(self)
        check_pruning(self.prune)


@dataclass
class ExportConfig(Config):
    """Hand a network over to hardware: folded integer weights, thread plan, cycles and golden vectors.

    Folds BatchNorm into the convolutions where the graph allows, and writes integer weights, scales, biases, the thread
    plan with cycles, and golden vectors for one processing element; docs/hardware.md describes every file. The folder
    appears only after the folded network was found to answer like the unfolded one on the validation images, and the
    vectors were recomputed by the golden model.
    """

    command: ClassVar[str] = "export"

    vectors: VectorsConfig = field(default_factory=VectorsConfig)
    out: str = setting("outputs/export", "the folder that is written; an earlier export there is replaced")

    def check(self) -> None:
        """Raise BnrecalError at the first value out of range."""
        check_experiment(self)


@dataclass
class BenchConfig:
    """Time the NB-SMT engine: whole networks against float32 PyTorch, side by side on the same images.

    A layer is first compared with the reference of the arithmetic, so that nothing is timed that computes something
    else.
    """

    command: ClassVar[str] = "bench"

    device: str = setting("cpu", "auto (the GPU if there is one) | cpu | cuda | cuda:N")
    models: list[str] = setting(["resnet18", "resnet50", "mobilenet_v2"], "names of torchvision's networks")
    batch: int | None = setting(
        None,
        "images per forward pass; null: 8, and 256 on a GPU. Networks on a processor take 1, 2 or 4 times as many, "
        "whichever float32 is quickest with",
    )
    repeats: int = setting(7, "of which the median counts")
    size: int = setting(224, "height and width of the images, in pixels")
    imagenet_time: bool = setting(False, "also estimate from these times how long 50,000 ImageNet images take")
    out: str = setting("outputs/bench/bench.json", "the file that the times go to")

    def check(self) -> None:
        """Raise BnrecalError at the first value out of range."""
        sane_values(self)
        check_device(self.device)
        if (self.batch is not None and self.batch < 1) or self.repeats < 1 or self.size < 32:
            raise BnrecalError(
                f"batch={self.batch} and repeats={self.repeats} must be at least 1, size={self.size} at least 32"
            )


CommandConfig = Table1Config | Figure1Config | PlanConfig | PruneConfig | ExportConfig | BenchConfig
SCHEMAS: dict[str, type[CommandConfig]] = {
    schema.command: schema
    for schema in (Table1Config, Figure1Config, PlanConfig, PruneConfig, ExportConfig, BenchConfig)
}


def register() -> None:
    """Make the schemas known to Hydra, each as `<command>_schema` and a plain run's as `schema`; safe to call again."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
