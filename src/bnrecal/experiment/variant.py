"""The settings that tell cells of one experiment apart."""

from dataclasses import dataclass, replace

from bnrecal.config import Config
from bnrecal.quantization.layer_plan import threads_by_layer


@dataclass(frozen=True)
class Variant:
    """One cell: the network quantized, threaded, and recalibrated or not.

    Attributes:
        threads: of every layer that can and is not in `layers`; 1 is plain A8W8.
        recal: whether BatchNorm statistics are re-estimated.
        layers: (name or glob, threads) pairs over `threads`.
        reorder: what decides which input channels are partners, in place of `smt.reorder`; None: `smt.reorder`.
    """

    threads: int
    recal: bool
    layers: tuple[tuple[str, int], ...] = ()
    reorder: str | None = None

    @staticmethod
    def of(config: Config) -> "Variant":
        """The cell that a configuration asks for; `smt.layers` wins over the plan file."""
        layers = threads_by_layer(config.smt.plan, config.smt.layers)
        return Variant(config.smt.threads, config.recal, tuple(layers.items()))

    def apply(self, config: Config) -> Config:
        """The configuration that asks for this cell alone."""
        if self == Variant.of(config):
            return config
        how = self.reorder or config.smt.reorder
        smt = replace(config.smt, threads=self.threads, layers=dict(self.layers), plan=None, reorder=how)
        return replace(config, recal=self.recal, smt=smt)

    @property
    def without_recal(self) -> "Variant":
        """The same network before recalibration."""
        return replace(self, recal=False)

    def __str__(self) -> str:
        mixed = f", {len(self.layers)} layers set" if self.layers else ""
        order = f", reorder={self.reorder}" if self.reorder else ""
        return f"{self.threads}T {'w/' if self.recal else 'w/o'} recalibration{mixed}{order}"


A8W8 = Variant(1, False)
CONTROL = Variant(1, True)  # what recalibration gains without NB-SMT
