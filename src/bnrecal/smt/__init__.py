"""NB-SMT (non-blocking simultaneous multithreading): convolutions whose threads share 8-bit multipliers."""

from bnrecal.smt.arithmetic import quantize_activation
from bnrecal.smt.engine import PreparedConv2d, nbsmt_conv2d
from bnrecal.smt.spec import SmtSpec
from bnrecal.smt.statistics import Statistics, conv_statistics

__all__ = ["PreparedConv2d", "SmtSpec", "Statistics", "conv_statistics", "nbsmt_conv2d", "quantize_activation"]
