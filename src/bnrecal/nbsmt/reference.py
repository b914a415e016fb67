"""The golden model: NB-SMT's processing element, one multiplication at a time, in plain integers.

Written to be compared with the specification by eye, and sharing nothing with the engine: of a policy it takes the
rule, not the terms.
"""

from itertools import product

from torch import Tensor, int64, zeros

from bnrecal.nbsmt.policies.builtin import built_in
from bnrecal.nbsmt.policies.custom import AnyPolicy, is_custom, load_policy


def reduced_activation(a: int, rounding: str, saturate: bool) -> int:
    """r(a) for a in 0..255."""
    if a <= 15:
        return a
    steps = round(a / 16) if rounding == "half_even" else a // 16
    return min(16 * steps, 240) if saturate else 16 * steps


def reduced_weight(b: int, rounding: str, saturate: bool) -> int:
    """r(b) for b in -128..127."""
    if -8 <= b <= 7:
        return b
    steps = round(b / 16) if rounding == "half_even" else b // 16
    return max(-128, min(16 * steps, 112)) if saturate else 16 * steps


def processing_element(
    pairs: list[tuple[int, int]],
    policy: AnyPolicy = "A",
    sparsity: bool = True,
    rounding: str = "half_even",
    saturate: bool = True,
) -> int:
    """Return what one step adds to the accumulator: one (activation, weight) pair from every thread."""
    active = [(a, b) for a, b in pairs if (a != 0 and b != 0) or not sparsity]
    if is_custom(policy):
        return sum(load_policy(policy).product(a, b, len(active)) for a, b in active)
    total = 0
    for a, b in active:
        ra = reduced_activation(a, rounding, saturate)
        rb = reduced_weight(b, rounding, saturate)
        if len(active) <= 1:
            total += a * b
        elif len(active) >= 3:
            total += ra * rb
        else:
            total += built_in(policy).collide(a, b, ra, rb)
    return total


def dot(activations: list[int], weights: list[int], threads: int, **options: str | bool) -> int:
    """One output: the K products cut into `threads` contiguous parts that advance together."""
    steps = -(-len(activations) // threads)
    padding = [0] * (steps * threads - len(activations))
    a, b = activations + padding, weights + padding
    accumulator = 0
    for j in range(steps):
        pairs = [(a[t * steps + j], b[t * steps + j]) for t in range(threads)]
        accumulator += processing_element(pairs, **options)  # type: ignore[arg-type]
    return accumulator


def conv2d(
    x: Tensor,
    w: Tensor,
    *,
    threads: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    **options: str | bool,
) -> Tensor:
    """uint8 (N, C, H, W) with int8 (O, C / groups, kh, kw) to int64 (N, O, H', W'), for small sizes."""
    images, _, height, width = x.shape
    filters, channels, kh, kw = w.shape
    out_h = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = zeros(images, filters, out_h, out_w, dtype=int64)
    pixels = x.tolist()
    taps = w.tolist()
    for n, o, i, j in product(range(images), range(filters), range(out_h), range(out_w)):
        first = o // (filters // groups) * channels
        a, b = [], []
        for c, p, q in product(range(channels), range(kh), range(kw)):
            y, z = i * stride[0] - padding[0] + p * dilation[0], j * stride[1] - padding[1] + q * dilation[1]
            inside = 0 <= y < height and 0 <= z < width
            a.append(pixels[n][first + c][y][z] if inside else 0)
            b.append(taps[o][c][p][q])
        out[n, o, i, j] = dot(a, b, threads, **options)
    return out
