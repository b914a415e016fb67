"""A convolution's end and the max-pooling behind it in one pass on a processor."""

import torch
from torch import Tensor

from bnrecal.nbsmt.engines.conv_end import ConvEnd, MaxPool
from bnrecal.nbsmt.engines.cpu.conv_end import EndPass
from bnrecal.nbsmt.engines.cpu.kernels.conv_end import SPARE_BYTES
from bnrecal.nbsmt.engines.cpu.kernels.pooled_end import ARGS, CHANNELS, kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import new_args, run_kernel, scratch

BAND = 8  # output rows of a unit: of those that two bands need, input rows are ended twice


def end_pooled(y: Tensor, end: ConvEnd, pool: MaxPool) -> Tensor | None:
    """Return the pooled end of a convolution's output, or the levels that `end` asks for; y stays as it is.

    None where it cannot be done in one pass, or a value is not finite: torch pools NaN in a way of its own.

    Args:
        y: float32 (N, O, H, W), of which `apply_end.can_end` is true.
        end: without a residual; its levels are those of the pooled result.
    """
    images, channels, rows, columns = y.shape
    out = pool.output_size((rows, columns))
    if images == 0 or channels % CHANNELS or min(out) < 1 or kernel() is None:
        return None
    shape = torch.Size((images, channels, *out))
    end_pass = EndPass(end, shape)
    record = end_pass.args_from(0)
    record["source"] = y.data_ptr()
    pitch = 4 * channels * (columns + 2 * pool.padding[1])
    bands = -(-out[0] // BAND)
    scratch_bytes = SPARE_BYTES + pitch * (pool.kernel[0] + 1)
    args = new_args(
        ARGS,
        end=int(record["address"]),
        channels=channels,
        rows=rows,
        columns=columns,
        out_rows=out[0],
        out_columns=out[1],
        kernel_rows=pool.kernel[0],
        kernel_columns=pool.kernel[1],
        stride_rows=pool.stride[0],
        stride_columns=pool.stride[1],
        padding_rows=pool.padding[0],
        padding_columns=pool.padding[1],
        bands=bands,
        band=BAND,
        units=images * bands,
        pitch=pitch,
        scratch=scratch("pooled_end", scratch_bytes),
        scratch_bytes=scratch_bytes,
    )
    run_kernel(kernel(), args, images * bands)
    end_pass.note(record)
    pooled = end_pass.close()
    return pooled if end.finite else None
