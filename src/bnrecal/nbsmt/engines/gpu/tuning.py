"""Launching kernels, and the tile of the GEMM, timed once for each kind of layer."""

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
import triton.testing
from triton.errors import TritonError

from bnrecal.errors import first_line
from bnrecal.nbsmt.engines.gpu.kernels import convolve, trial
from bnrecal.nbsmt.engines.gpu.tile_store import Tile, TileStore

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # the kernels run in numpy, on the CPU's tensors
SMALL = Tile(64, 16, 32, 4, 3)  # for the interpreter, which multiplies whatever the size
# None spills registers on sm_80, 89 and 90, but with a second accumulator (SPLIT) every tile of more than ROOM sums a
# lane.
ROOM = 32
TILES = (
    Tile(128, 128, 128, 8, 3),
    Tile(64, 128, 128, 4, 4),
    Tile(128, 64, 128, 8, 4),
    Tile(64, 64, 128, 4, 4),
    Tile(128, 128, 64, 8, 4),
    Tile(64, 64, 64, 4, 5),
    Tile(128, 32, 64, 4, 5),
    Tile(64, 16, 64, 4, 5),
    Tile(128, 128, 32, 8, 5),
    Tile(64, 64, 32, 4, 5),
    Tile(128, 32, 32, 4, 5),
    Tile(64, 16, 32, 4, 5),
)
# On compute capability 9.0, whose warps multiply in fours: four of them with up to twice the sums leave room for a
# second block beside them. Registers suffice there alone.
HOPPER_TILES = (
    Tile(128, 128, 128, 4, 3),
    Tile(128, 64, 128, 4, 3),
    Tile(64, 128, 128, 4, 3),
    Tile(64, 64, 128, 4, 4),
    Tile(128, 128, 64, 4, 5),
    Tile(256, 64, 64, 4, 4),
    Tile(128, 64, 64, 4, 5),
    Tile(128, 32, 64, 4, 5),
    Tile(64, 16, 64, 4, 5),
    *[tile for tile in TILES if tile.channels == 32],
)
MOST_BESIDE_RESIDUAL = 64  # sums a lane, or registers are spilled
MOST_TILES = 4  # timed for a kind of layer
NARROWEST = 16  # filters of a tile
# Layers are of one kind, and share a tile, that have as many rows by these bounds: enough tiles to fill a large GPU
# several times over, about once, or not.
ROWS = (2**13, 2**16)
# As many products in a sum: how long the load pipeline runs.
PRODUCTS = (2**10,)
MOST_FILTERS = 256  # that make another kind of layer; more are as these
WARM_UP, REPEAT = 2, 10  # milliseconds that a tile runs for

KERNELS = Path(convolve.__file__).parent  # their source: a change of it makes tiles that were timed before another's
TRIAL = 32  # numbers that the trivial kernel writes
# Multiply, round, add, round: as the CPU does, so that both give the same float32.
ROUNDED = {"enable_fp_fusion": False}


def try_launch(device: torch.device) -> bool:
    """Start a trivial kernel on this GPU; whether it wrote what it should.

    Raises:
        RuntimeError, OSError, SubprocessError, AssertionError: as Triton does where it finds no C compiler, no Python
            headers or no driver, cannot write its cache or cannot compile.
    """
    y = torch.zeros(TRIAL, dtype=torch.int32, device=device)
    try:
        with current(device):
            trial.trial[(1,)](y, COUNT=TRIAL)
    except TritonError as error:
        raise RuntimeError(first_line(error)) from error
    return y.tolist() == [3 * i for i in range(TRIAL)]


def current(device: torch.device) -> AbstractContextManager[object]:
    """A block in which this is the current CUDA device, for Triton launches there, wherever the tensors lie."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    """Start a kernel."""
    kernel[grid](*args, **meta, **ROUNDED)


def multiply(**arguments: Any) -> None:
    """Start `kernels.convolve.conv_int8` with the tile that was fastest for this kind of layer.

    All tiles give the same integers, so the same results. What follows the convolution makes no other kind of it: it
    costs about the same with every tile. A residual alone takes more registers than a large tile leaves.
    """
    tile = SMALL if INTERPRETED else _tile_for(arguments)
    _start_beside(tile, arguments)


def _start_beside(tile: Tile, arguments: dict[str, Any]) -> None:
    _start(beside_residual(tile) if arguments["RESIDUAL"] else tile, arguments)


def beside_residual(tile: Tile) -> Tile:
    """Return a tile that leaves registers for a residual: this one, or half of it."""
    if _sums_a_lane(tile) <= MOST_BESIDE_RESIDUAL:
        return tile
    if tile.rows > tile.filters:
        return tile._replace(rows=tile.rows // 2)
    return tile._replace(filters=tile.filters // 2)


def _start(tile: Tile, arguments: dict[str, Any]) -> None:
    filters = triton.cdiv(arguments["filters"], tile.filters) * arguments["bundles"]
    grid = (triton.cdiv(arguments["rows"], tile.rows) * filters,)
    block = {"BM": tile.rows, "BN": tile.filters, "BK": tile.channels}
    convolve.conv_int8[grid](**arguments, **block, num_warps=tile.warps, num_stages=tile.stages, **ROUNDED)


def _tile_for(arguments: dict[str, Any]) -> Tile:
    device = arguments["x"].device
    hopper = torch.cuda.get_device_capability(device) == (9, 0)
    tiles = fitting_tiles(arguments["depth"], arguments["filters"], bool(arguments["SPLIT"]), hopper=hopper)
    if len(tiles) == 1:
        return tiles[0]
    names = ("rows", "filters", "depth", "taps", "SPLIT")
    kind = kind_of(*[arguments[name] for name in names])
    return _store(device).choose(kind, tiles, lambda: _fastest(tiles, arguments))


def fitting_tiles(depth: int, filters: int, split: bool, *, hopper: bool) -> list[Tile]:
    """Return the tiles worth timing, MOST_TILES at most.

    Args:
        depth: channels, a multiple of 32. They are taken in the largest steps that divide them and that there is a
            narrow enough tile for.
        filters: of a bundle; tiles are no wider than these need.
        split: leave room for a second accumulator.
        hopper: the GPU is of compute capability 9.0.
    """
    widest = max(NARROWEST, triton.next_power_of_2(filters))
    fitting = [
        tile
        for tile in (HOPPER_TILES if hopper else TILES)
        if depth % tile.channels == 0 and tile.filters <= widest and (not split or has_room(tile))
    ]
    step = max(tile.channels for tile in fitting)
    return [tile for tile in fitting if tile.channels == step][:MOST_TILES]


def has_room(tile: Tile) -> bool:
    """Return whether each lane can hold a second accumulator."""
    return _sums_a_lane(tile) <= ROOM


def _sums_a_lane(tile: Tile) -> int:
    return tile.rows * tile.filters // (32 * tile.warps)


def kind_of(rows: int, filters: int, depth: int, taps: int, split: int) -> str:
    """Return the kind of layer that a tile is chosen for, in words: the key of the file they are kept in."""
    step = next(step for step in (128, 64, 32) if depth % step == 0)
    parts = {
        "rows": _class_of(rows, ROWS),
        "filters": min(MOST_FILTERS, max(NARROWEST, triton.next_power_of_2(filters))),
        "products": _class_of(depth * taps, PRODUCTS),
        "step": step,
    }
    words = [f"{name} {value}" for name, value in parts.items()]
    return ", ".join(words) + (", split" if split else "")


def _class_of(number: int, bounds: tuple[int, ...]) -> str:
    reached = [bound for bound in bounds if number >= bound]
    return f">= {reached[-1]}" if reached else f"< {bounds[0]}"


def _fastest(tiles: list[Tile], arguments: dict[str, Any]) -> Tile | None:
    """Return the tile that takes the least time; None where memory is too short to tell."""
    try:
        times = [_milliseconds(tile, arguments) for tile in tiles]
    except torch.cuda.OutOfMemoryError:  # the timing clears the GPU's cache with a buffer of its own
        return None
    return tiles[times.index(min(times))]


def _milliseconds(tile: Tile, arguments: dict[str, Any]) -> float:
    """Return the time of one launch; infinite where this GPU cannot run the tile."""
    try:
        found = triton.testing.do_bench(
            lambda: _start_beside(tile, arguments), warmup=WARM_UP, rep=REPEAT, return_mode="median"
        )
    except TritonError:
        return float("inf")
    return float(found)


@cache
def _store(device: torch.device) -> TileStore:
    """The tiles of this GPU."""
    source = hashlib.sha256()
    for file in sorted(KERNELS.glob("*.py")):
        source.update(file.read_bytes())
    return TileStore(torch.cuda.get_device_name(device), f"triton-{triton.__version__}-{source.hexdigest()[:12]}")
