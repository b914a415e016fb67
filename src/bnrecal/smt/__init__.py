"""NB-SMT (non-blocking simultaneous multithreading): convolutions whose threads share 8-bit multipliers."""

from bnrecal.smt.arithmetic import quantize_activation
from bnrecal.smt.engine import PreparedConv2d, nbsmt_conv2d
from bnrecal.smt.spec import SmtSpec

__all__ = ["PreparedConv2d", "SmtSpec", "nbsmt_conv2d", "quantize_activation"]
