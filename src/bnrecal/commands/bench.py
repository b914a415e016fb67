"""How fast the NB-SMT engine is: whole networks against float32 PyTorch, side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bnrecal.benchmark.bench import MODELS, run
from bnrecal.errors import BnrecalError


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bnrecal.commands.bench", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--models", nargs="*", default=MODELS, help="of torchvision (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images a forward pass (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="of the images, pixels (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/bench.json"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        run(args.device, args.models, args.batch, args.repeats, args.size, args.out)
    except BnrecalError as error:
        raise SystemExit(f"bnrecal: {error}") from error


if __name__ == "__main__":
    main()
