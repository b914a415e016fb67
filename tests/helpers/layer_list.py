"""The published MLPerf checkpoints as lists of (name, shape), written down from the layers that MLPerf's reference has.

Independent of the package's classes: sizes are spelled out, not derived from a network.
"""

from itertools import pairwise

Entries = dict[str, tuple[int, ...]]


def _batch_norm(name: str, channels: int) -> Entries:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def resnet50_mlperf() -> Entries:
    """torchvision's names; 1001 classes."""
    entries: Entries = {"conv1.weight": (64, 3, 7, 7), **_batch_norm("bn1", 64)}
    channels = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            entries[f"{name}.conv1.weight"] = (width, channels, 1, 1)
            entries[f"{name}.conv2.weight"] = (width, width, 3, 3)
            entries[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            for number, size in ((1, width), (2, width), (3, 4 * width)):
                entries |= _batch_norm(f"{name}.bn{number}", size)
            if block == 0:
                entries[f"{name}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                entries |= _batch_norm(f"{name}.downsample.1", 4 * width)
            channels = 4 * width
    return entries | {"fc.weight": (1001, 2048), "fc.bias": (1001,)}


def mobilenet_v1() -> Entries:
    """`model` counts the layers of a Sequential; in each, the zero padding is number 0."""
    entries: Entries = {"model.0.1.weight": (32, 3, 3, 3), **_batch_norm("model.0.2", 32)}
    channels = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for block, (inputs, outputs) in enumerate(pairwise(channels), start=1):
        entries[f"model.{block}.1.weight"] = (inputs, 1, 3, 3)
        entries |= _batch_norm(f"model.{block}.2", inputs)
        entries[f"model.{block}.4.weight"] = (outputs, inputs, 1, 1)
        entries |= _batch_norm(f"model.{block}.5", outputs)
    return entries | {"fc.weight": (1001, 1024), "fc.bias": (1001,)}
