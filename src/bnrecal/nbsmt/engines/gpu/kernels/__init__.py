"""The Triton kernels of the GPU engine.

Shapes are channels-last. N images, H x W pixels, C channels; E expanded channels, of which each bundle of groups has
`depth`; O filters. Tensor-core instructions multiply signed bytes alone, so an unsigned activation a travels as
a - 128 and the GEMM adds 128 * (sum of the filter's weights) at its end. The border is written out, as the
activation 0, so that the GEMM's loads need no masks.
"""
