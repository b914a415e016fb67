"""The example in the docstring of every public name runs and prints what it says, from an empty namespace."""

import doctest

import pytest
import torch

import bnrecal

# Score's method is found with it; the parts of a Config have their example there, in the whole.
PARTS = ("ModelConfig", "DataConfig", "QuantConfig", "SmtConfig", "CalibrationConfig", "RecalibrationConfig")
NAMES = [name for name in bnrecal.__all__ if name not in PARTS]
FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples(name: str) -> list[doctest.DocTest]:
    """The examples of a public name and of its methods."""
    found = FINDER.find(getattr(bnrecal, name), name, module=False, globs={})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_docstrings_run(name: str) -> None:
    found = examples(name)
    assert name in [test.name for test in found]
    torch.manual_seed(0)
    reported: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test, out=reported.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(reported)


def test_methods_have_examples_too() -> None:
    assert "Score.gain_over" in [test.name for test in examples("Score")]
