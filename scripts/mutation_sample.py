"""Judge a random sample of the changes that `make mutate` makes: `python scripts/mutation_sample.py --seed 18`.

mutmut writes the code with all changes in it, each switched on by its name. One process imports and collects all tests.
A fork of it notes which lines each test reaches in how long. A fork for each change runs the tests that reach its line,
the quickest first, until one fails. Printed are the share of changes that a test noticed, and the others.
"""

import argparse
import ast
import difflib
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import coverage
import pytest
from mutmut.configuration import config
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutation"  # a copy of the repository, its code changed
NOTED = WORK / "noted.json"
MOST = 120.0  # seconds of tests for one change
SPARE, TIMES = 30.0, 5.0  # seconds that tests may take beyond those measured, and how many times as long
MOST_STATUS = 255  # of a process


@dataclass(frozen=True)
class Mutant:
    """One change of a function: mutmut's name, the file below `WORK`, the difference as text.

    Attributes:
        lines: those of the statement that is changed, in the copy of the function that runs without a change.
    """

    name: str
    file: str
    lines: range
    difference: str


def write_mutants() -> list[Mutant]:
    """Copy the repository to `WORK` with all changes in its code, and return them by name."""
    WORK.mkdir(parents=True, exist_ok=True)
    for part in ("src", *map(str, config().also_copy)):
        if (ROOT / part).is_dir():
            shutil.rmtree(WORK / part, ignore_errors=True)
            shutil.copytree(ROOT / part, WORK / part)
        elif (ROOT / part).exists():
            shutil.copy2(ROOT / part, WORK / part)
    mutants = []
    for path in Path("src").rglob("*.py"):
        if config().should_mutate(path):
            mutants += mutants_of(path)
    return sorted(mutants, key=lambda mutant: mutant.name)


def mutants_of(path: Path) -> list[Mutant]:
    """Write a module with all changes of it, and return them."""
    mutated = mutate_file_contents(str(path), path.read_text())
    (WORK / path).write_text(mutated.code)
    text = mutated.code.splitlines()
    statements = [node for node in ast.walk(ast.parse(mutated.code)) if isinstance(node, ast.stmt)]
    mutants = []
    for name in mutated.mutant_names:
        original = name.rpartition("_")[0] + "_orig"
        before = mutated.line_span_by_function_name[original]
        after = mutated.line_span_by_function_name[name]
        old = text[before.start - 1 : before.end]
        new = [line.replace(name, original) for line in text[after.start - 1 : after.end]]
        place = next(place for place, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
        difference = list(difflib.unified_diff(old, new, lineterm="", n=1))[3:]
        lines = lines_of_statement(statements, before.start + place)
        mutants.append(Mutant(get_mutant_name(path, name), str(path), lines, "\n".join(difference)))
    return mutants


def lines_of_statement(statements: Sequence[ast.stmt], line: int) -> range:
    """Return the lines of the innermost statement around a line: of a compound one its head, of a function all."""
    around = [one for one in statements if one.lineno <= line <= (one.end_lineno or line)]
    inner = max(around, key=lambda one: (one.lineno, -(one.end_lineno or line)))
    end = inner.end_lineno or line
    if isinstance(inner, ast.For | ast.While | ast.If | ast.With):
        end = max(line, inner.body[0].lineno - 1)
    return range(inner.lineno, end + 1)


class Judge:
    """A pytest plugin that runs tests in forks, in the place of running them all once.

    Args:
        sample: the changes to judge.
        say: prints a line.
    """

    def __init__(self, sample: Sequence[Mutant], say: Callable[[str], object]) -> None:
        self.sample = sample
        self.say = say
        self.unnoticed: list[Mutant] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._coverage: coverage.Coverage | None = None
        self._context = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.freeze()  # a collection in a fork would copy the pages of all that was imported
        in_fork(lambda: self._note(session), 3600.0)
        noted = json.loads(NOTED.read_text())
        self.say(f"{len(session.items)} tests of {sum(noted['seconds'].values()):.0f} s")
        for test in noted["failed"]:
            self.say(f"left out, since it fails without a change: {test}")
        for number, mutant in enumerate(self.sample, start=1):
            verdict, tests = self._judge(session.items, mutant, noted)
            self.say(f"{number:4} {verdict:11} by {tests:3} tests  {mutant.name}")
            if verdict == "unnoticed":
                self.unnoticed.append(mutant)
        return True

    def _judge(self, items: Sequence[pytest.Item], mutant: Mutant, noted: dict[str, Any]) -> tuple[str, int]:
        """Return whether a test noticed the change, or took far too long with it, and how many could."""
        lines = noted["reached"].get(mutant.file, {})
        reached = {test for line in mutant.lines for test in lines.get(str(line), [])} - set(noted["failed"])
        tests: list[pytest.Item] = []
        total = 0.0
        for item in sorted(items, key=lambda item: noted["seconds"].get(item.nodeid, 0.0)):
            if item.nodeid in reached and total <= MOST:
                total += noted["seconds"][item.nodeid]
                tests.append(item)
        if not tests:
            return "unnoticed", 0
        failed = run(tests, mutant.name, total)
        if failed is None:
            return "out of time", len(tests)
        # what fails is to pass without the change, in the same company
        noticed = failed > 0 and run(tests[:failed], "", total) == 0
        return "noticed" if noticed else "unnoticed", len(tests)

    def _note(self, session: pytest.Session) -> int:
        """Run all tests, and write down the lines that each reaches, its seconds and whether it fails."""
        self._coverage = coverage.Coverage(data_file=None, include=[f"{WORK}/src/*"], config_file=False)
        self._coverage.start()
        of_fixture: dict[str, list[str]] = defaultdict(list)
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            self._switch(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            forget_answers()
            for definitions in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
                for definition in definitions:
                    of_fixture[f"fixture {id(definition)}"].append(item.nodeid)
        self._coverage.stop()
        data = self._coverage.get_data()
        reached: dict[str, dict[int, list[str]]] = defaultdict(dict)
        for file in data.measured_files():
            for line, contexts in data.contexts_by_lineno(file).items():
                tests = {test for name in contexts for test in of_fixture.get(name, [name])}
                reached[str(Path(file).relative_to(WORK))][line] = list(tests)
        NOTED.write_text(json.dumps({"reached": reached, "seconds": self._seconds, "failed": list(self._failed)}))
        return 0

    def _switch(self, context: str) -> None:
        self._context = context
        if self._coverage is not None:
            self._coverage.switch_context(context)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """What a shared fixture reaches is reached by every test that asks for it, not by the first alone."""
        before = self._context
        if fixturedef.scope != "function":
            self._switch(f"fixture {id(fixturedef)}")
        try:
            return (yield)
        finally:
            self._switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)


def run(tests: Sequence[pytest.Item], change: str, seconds: float) -> int | None:
    """Return the number of the first test that fails with a change, 0 if none; None where they take far too long.

    Args:
        seconds: that they take without the change.
    """

    def work() -> int:
        os.environ["MUTANT_UNDER_TEST"] = change
        for number, (item, following) in enumerate(zip(tests, [*tests[1:], None], strict=True), start=1):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.session.testsfailed:
                return min(number, MOST_STATUS)
        return 0

    return in_fork(work, SPARE + TIMES * seconds)


def forget_answers() -> None:
    """Empty the caches of test helpers: a second test that found an answer there would not be seen to reach it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("helpers."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def in_fork(work: Callable[[], int], seconds: float) -> int | None:
    """Return the status of work done in a fork, in a session of its own; None where it was ended after some seconds."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.alarm(ceil(seconds))
        status = MOST_STATUS
        try:
            status = work()
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started
    return None if code == -signal.SIGALRM else abs(code)


def main() -> None:
    """Draw a sample, judge it, and print what was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True, help="of the shuffled names")
    parser.add_argument("--count", type=int, default=150, help="changes to judge")
    args = parser.parse_args()
    os.chdir(ROOT)
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], text=True).strip()
    mutants = write_mutants()
    random.Random(args.seed).shuffle(mutants)
    print(f"{args.count} of {len(mutants)} changes, seed {args.seed}, commit {commit}", flush=True)
    options = [*config().pytest_add_cli_args, *config().pytest_add_cli_args_test_selection, "--basetemp=temporary"]
    os.chdir(WORK)
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=f"{WORK}/src:{WORK}/tests", MUTANT_UNDER_TEST="")
    sys.path[:0] = [f"{WORK}/src", f"{WORK}/tests"]
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pytest's own words
        judge = Judge(mutants[: args.count], lambda line: print(line, file=out))
        if pytest.main(options, plugins=[judge]) != pytest.ExitCode.OK:
            sys.exit("pytest cannot collect the tests")
        for mutant in judge.unnoticed:
            judge.say(f"\n{mutant.name}\n{mutant.difference}")
        noticed = args.count - len(judge.unnoticed)
        low, high = binomtest(noticed, args.count).proportion_ci(method="wilson")
        judge.say(f"\nnoticed: {noticed} of {args.count}, {noticed / args.count:.1%} ({low:.0%} to {high:.0%})")


if __name__ == "__main__":
    main()
