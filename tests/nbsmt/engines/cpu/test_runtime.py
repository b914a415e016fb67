"""Argument records: where they lie, and whose they are."""

from concurrent.futures import ThreadPoolExecutor

from bnrecal.nbsmt.engines.cpu.kernels.runtime import OwnArgs, args_dtype, copy_args, new_args

ARGS = args_dtype("first", "second", floats=("scale",))


def test_every_record_has_its_own_address() -> None:
    args = new_args(ARGS, first=3, scale=0.5)
    copy = copy_args(args)
    assert args["address"] == args.ctypes.data
    assert copy["address"] == copy.ctypes.data != args.ctypes.data
    assert [float(copy[name]) for name in ("first", "second", "scale")] == [3, 0, 0.5]


def test_threads_write_into_records_of_their_own() -> None:
    args = new_args(ARGS, first=3)
    own = OwnArgs(args)
    own.args["first"] = 4
    assert own.args is own.args
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: own.args).result()
    assert [int(record["first"]) for record in (args, own.args, other)] == [3, 4, 3]
    assert other["address"] not in (args["address"], own.args["address"])
