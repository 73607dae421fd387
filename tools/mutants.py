"""Break every formula in every small way, and see a test that is marked with an equation go red.

    python -m tools.mutants [CHAPTER ...]

A mutant is a chapter's module with one change: a sign, an index, a root, a factor, a name. Only
tests that carry ``@pytest.mark.equation`` may catch it. Survivors are listed: each is equivalent
(such as swapped arguments of a distance) or needs a test, and only a reader can tell which.
"""

import argparse
import ast
import copy
import io
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch  # imported before the forks, once

from tools.sync import chapters

ROOT = Path.cwd()
WORKERS = os.cpu_count() or 1
TIMEOUT_S = 120
# The tables and functions that a hurried author takes for one another.
SWAPPED_NAMES = {
    "alpha": ["alpha_bar"],
    "alpha_bar": ["alpha"],
    "beta": ["alpha"],
    "alpha_bar_prev": ["alpha_bar"],
    "sin": ["cos"],
    "cos": ["sin"],
    "weights": [],
}
OPERATORS: dict[type[ast.operator], list[type[ast.operator]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult],
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
}


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Every small change of one node."""
    match node:
        case ast.BinOp(left, op, right):
            for other in OPERATORS.get(type(op), []):
                yield ast.BinOp(left, other(), right)
            if isinstance(op, ast.Mult | ast.Div | ast.Add | ast.Sub):
                yield left  # the second factor or term is forgotten
            if isinstance(op, ast.Mult | ast.Add):
                yield right
        case ast.UnaryOp(ast.USub(), operand):
            yield operand
        case ast.Compare(left, [op], right) if type(op) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(op)]()], right)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            if value not in (0, 1):
                yield ast.Constant(value - 1)
        case ast.Call(
            ast.Attribute(value, "sqrt" | "log" | "exp" | "square" | "cumprod"), _
        ):
            yield value
        case ast.Call(function, [first, second, *rest], keywords):
            yield ast.Call(function, [second, first, *rest], keywords)
        case ast.Attribute(value, name, context):
            for other_name in SWAPPED_NAMES.get(name, []):
                yield ast.Attribute(value, other_name, context)
        case ast.Subscript(value, ast.Name("t") as index, context):
            yield ast.Subscript(
                value, ast.BinOp(index, ast.Sub(), ast.Constant(1)), context
            )


def is_guard(node: ast.stmt) -> bool:
    """A check of the arguments: it has tests of its own, which carry no equation's mark."""
    return isinstance(node, ast.Raise) or (
        isinstance(node, ast.If)
        and any(isinstance(inner, ast.Raise) for inner in node.body)
    )


def places(function: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every expression in the body of a function, as (parent, field, index)."""
    for name, value in ast.iter_fields(function):
        if name in ("returns", "decorator_list", "annotation", "args"):
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or (
                isinstance(child, ast.stmt) and is_guard(child)
            ):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring
            if isinstance(child, ast.JoinedStr):
                continue
            yield function, name, index if isinstance(value, list) else None
            yield from places(child)


def mutants(source: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield (what was changed, the changed module)."""
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or skip(function.name):
            continue
        for parent, name, index in list(places(function)):
            field = getattr(parent, name)
            old = field if index is None else field[index]
            if not isinstance(old, ast.expr):
                continue
            for new in replacements(old):
                new = ast.copy_location(copy.deepcopy(new), old)
                if ast.dump(new) == ast.dump(old):
                    continue
                if index is None:
                    setattr(parent, name, new)
                else:
                    field[index] = new
                text = f"{function.name}:{old.lineno}: {ast.unparse(old)}  ->  {ast.unparse(new)}"
                yield text, ast.unparse(ast.fix_missing_locations(tree))
                if index is None:
                    setattr(parent, name, old)
                else:
                    field[index] = old


def survives(module: str, mutant: str, tests: list[str]) -> bool:
    """Run the marked tests against the mutant, in a copy of the project."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("ddpm_nb", "tests", "tools"):
            shutil.copytree(
                ROOT / part,
                Path(folder) / part,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        (Path(folder) / f"ddpm_nb/{module}.py").write_text(mutant)
        os.chdir(folder)
        sys.path.insert(0, folder)
        torch.set_num_threads(1)
        quiet = io.StringIO()
        with redirect_stdout(quiet), redirect_stderr(quiet):
            code = pytest.main(
                ["-m", "equation", "-x", "-q", "-p", "no:cacheprovider", *tests]
            )
        os.chdir(ROOT)
    # INTERRUPTED: the mutant could not even be imported. Anything else is no verdict.
    if code not in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.INTERRUPTED,
    ):
        raise RuntimeError(f"pytest ended with {code}")
    return code == pytest.ExitCode.OK


def run(jobs: list[tuple[str, str, str]]) -> list[str]:
    """Run all mutants, a few at once, each in a process of its own; return the survivors."""
    files = sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))
    waiting = list(reversed(jobs))
    running: dict[int, tuple[str, float]] = {}
    survivors, done = [], 0
    while waiting or running:
        while waiting and len(running) < WORKERS:
            module, text, mutant = waiting.pop()
            own = f"test_{module}.py"
            others = [f for f in files if f != own and f[5:-3] in {j[0] for j in jobs}]
            pid = os.fork()
            if pid == 0:
                try:
                    alive = survives(
                        module, mutant, [f"tests/{f}" for f in (own, *others)]
                    )
                except BaseException:
                    traceback.print_exc()
                    os._exit(2)
                os._exit(1 if alive else 0)
            running[pid] = (f"{module}.{text}", time.monotonic())
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            for late, (_, begun) in running.items():
                if time.monotonic() - begun > TIMEOUT_S:
                    os.kill(late, 9)  # a mutant that never ends is caught too
            time.sleep(0.02)
            continue
        text, _ = running.pop(pid)
        done += 1
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 2:
            raise SystemExit(f"the test run itself broke, without a verdict: {text}")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
            survivors.append(text)
            print(f"survived: {text}", flush=True)
        if done % 25 == 0:
            print(
                f"{done} of {len(jobs)} mutants tried, {len(survivors)} survived",
                flush=True,
            )
    return survivors


def main() -> int:
    """Mutate the chapters and report."""
    parser = argparse.ArgumentParser(
        description="Break every formula and see a marked test fail."
    )
    parser.add_argument("chapters", nargs="*")
    names = parser.parse_args().chapters or chapters(ROOT)
    plain = [
        (name, "unchanged", (ROOT / f"ddpm_nb/{name}.py").read_text()) for name in names
    ]
    if len(run(plain)) != len(plain):
        raise SystemExit(
            "make mutants: a marked test fails without any mutant; nothing was tried"
        )
    # A function inside a function is met twice; the same mutant counts once.
    jobs = list(
        {
            (name, mutant): (name, text, mutant)
            for name, _, source in plain
            for text, mutant in mutants(source, lambda f: f == "check_t")
        }.values()
    )
    survivors = run(jobs)
    caught = len(jobs) - len(survivors)
    print(
        f"make mutants: {caught} of {len(jobs)} mutants ({caught / len(jobs):.1%}) "
        "caught by tests that are marked with an equation"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
