"""Golden vectors as files, and their check by the golden model once they are written."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bnrecal.errors import BnrecalError
from bnrecal.export.vectors import Bytes, LayerVectors, Vectors, active_threads, corner_operands
from bnrecal.files import atomic_path
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES

Steps = list[list[tuple[int, int]]]  # of one output: an (activation, weight) pair from every thread, step by step

ACTIVATIONS, WEIGHTS, ACTIVE, SUMS = "activations.hex", "weights.hex", "active.hex", "accumulators.hex"
PARAMETERS, ARRAYS = "parameters.vh", "vectors.npz"


def write_layer(layer: LayerVectors, folder: Path) -> None:
    """All files of one layer: hex text and parameters for a test bench, and the arrays."""
    write_hex(layer.vectors, folder)
    v = layer.vectors
    with atomic_path(folder / ARRAYS) as path, path.open("wb") as file:
        np.savez_compressed(
            file,
            input=layer.levels,
            weight=layer.weight,
            sums=layer.sums,
            positions=layer.positions,
            activations=v.activations,
            weights=v.weights,
            active=v.active,
            accumulators=v.accumulators,
        )


def write_hex(vectors: Vectors, folder: Path) -> None:
    """One word a line, for `$readmemh`: a step's bytes with thread 0 in the lowest, counts, and 32-bit sums."""
    lines = {
        ACTIVATIONS: _step_words(vectors.activations),
        WEIGHTS: _step_words(vectors.weights),
        ACTIVE: [f"{count:x}" for count in vectors.active.ravel().tolist()],
        SUMS: [f"{total & 0xFFFFFFFF:08x}" for total in vectors.accumulators.tolist()],
        PARAMETERS: _parameters(vectors),
    }
    for name, text in lines.items():
        with atomic_path(folder / name) as path:
            path.write_text("\n".join(text) + "\n")


def _step_words(operands: Bytes) -> list[str]:
    """(P, steps, T) bytes as P * steps words of 2 T hex digits, thread T - 1 first, so that thread 0 ends up lowest."""
    bytes_ = np.ascontiguousarray(operands[:, :, ::-1]).view(np.uint8)
    return [row.tobytes().hex() for row in bytes_.reshape(-1, operands.shape[2])]


def _parameters(vectors: Vectors) -> list[str]:
    outputs, steps, threads = vectors.activations.shape
    spec = vectors.spec
    values = {
        "THREADS": threads,
        "OUTPUTS": outputs,
        "STEPS": steps,
        "POLICY": POLICIES.index(spec.policy) if spec.policy in POLICIES else -1,
        "SPARSITY": int(spec.sparsity),
        "FLOOR": int(spec.rounding == "floor"),
        "SATURATE": int(spec.saturate),
        "SIGNED": int(vectors.activations.dtype == np.int8),
    }
    return [f"localparam {name} = {value};" for name, value in values.items()]


def read_hex(folder: Path, spec: SmtSpec) -> Vectors:
    """The vectors back from the hex text, as a test bench reads them."""
    text = {name: (folder / name).read_text() for name in (ACTIVATIONS, WEIGHTS, ACTIVE, SUMS, PARAMETERS)}
    words = {name: _numbers(text[name]) for name in (ACTIVE, SUMS)}
    parameters = dict(re.findall(r"localparam (\w+) = (\d+);", text[PARAMETERS]))
    outputs = int(parameters["OUTPUTS"])
    steps = int(parameters["STEPS"])
    if int(parameters["THREADS"]) != spec.threads:
        raise BnrecalError(f"{folder} holds vectors of {parameters['THREADS']} threads, not of {spec.threads}")
    a, b = (
        np.frombuffer(bytes.fromhex(text[name]), np.uint8).reshape(outputs, steps, spec.threads)[:, :, ::-1]
        for name in (ACTIVATIONS, WEIGHTS)
    )
    return Vectors(
        spec,
        a.view(np.int8) if parameters["SIGNED"] == "1" else a,
        b.view(np.int8),
        np.array(words[SUMS]).astype(np.int32),
        np.array(words[ACTIVE], np.uint8).reshape(outputs, steps),
    )


def _numbers(text: str) -> list[int]:
    """Return the hexadecimal words of a memory file."""
    return [int(word, 16) for word in text.split()]


def check_against_golden_model(vectors: Vectors, what: str) -> None:
    """Recompute every accumulator and every count, one multiplication at a time.

    Raises:
        BnrecalError: at the first that differs, naming it.
    """
    for output, steps in enumerate(_outputs(vectors.activations, vectors.weights)):
        total = _golden_sum(steps, vectors.spec)
        expected = int(vectors.accumulators[output])
        if total != expected:
            raise BnrecalError(f"{what}: output {output} is {expected}, the golden model says {total}")
        for step, (pairs, active) in enumerate(zip(steps, vectors.active[output].tolist(), strict=True)):
            count = sum(a != 0 and b != 0 for a, b in pairs) if vectors.spec.sparsity else len(pairs)
            if active != count:
                raise BnrecalError(f"{what}: output {output}, step {step} has {count} active threads, not {active}")


def corner_vectors(spec: SmtSpec) -> Vectors:
    """`corner_operands` with the golden model's answers."""
    a, b = corner_operands(spec)
    sums = [_golden_sum(steps, spec) for steps in _outputs(a, b)]
    return Vectors(spec, a, b, np.array(sums, np.int32), active_threads(a, b, spec))


def _outputs(activations: Bytes, weights: Bytes) -> Iterator[Steps]:
    """The operand pairs of each output, step by step, as plain integers."""
    for a, b in zip(activations.tolist(), weights.tolist(), strict=True):
        yield [list(zip(*operands, strict=True)) for operands in zip(a, b, strict=True)]


def _golden_sum(steps: Steps, spec: SmtSpec) -> int:
    rule = (spec.policy, spec.sparsity, spec.rounding, spec.saturate)
    return sum(reference.processing_element(pairs, *rule) for pairs in steps)
