"""Break the package in every small way, and see a test go red.

    python -m tools.mutants [ROOM ...] [--workers N] [--most N] [--tests GLOB]

A mutant is a module of ddpm_nb with one change: a sign, a root, a keyword, a default, a statement. Each module, with a
chapter or without, has two rooms:

    loss:equations   functions whose docstring names an equation: every mutant, judged by tests that are marked with one
    loss:rest        the rest, and all refusals of bad input and care for devices: 150 mutants, judged by all tests

Of these tests those judge that run the changed lines. Each mutant is tried in a copy of the project, in a process of
its own. Verdicts are kept in _build/mutants/, under a hash of the mutant and its judges: stop at any time, call again,
and it goes on. Survivors are listed: each is equivalent (such as swapped arguments of a distance) or needs a test, and
only a reader can tell which.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest

ROOT = Path.cwd()
KEPT = ROOT / "_build/mutants"
SAMPLE = 150  # mutants of a room without equations
IMPORTED = 60  # seconds until a file of tests must be imported, or its process is killed
# Loaded once, before the forks; never ddpm_nb itself.
HEAVY = ("torch", "sympy", "scipy.stats", "hypothesis", "PIL.Image", "diffusers", "matplotlib.pyplot")
NO_ROOM = {"__init__", "__main__", "_figures"}  # _figures only draws, in notebooks

# What a hurried author takes for one another.
TAKEN_FOR = """
alpha alpha_bar, beta alpha, sin cos, mean sum, any all, min max, train eval, zeros ones, zeros_like ones_like, rand
randn, floor ceil, float64 float32, bfloat16 float16, LANCZOS NEAREST, BICUBIC NEAREST, argmin argmax
"""
SWAPS: dict[str, set[str]] = defaultdict(set)
for one, other in map(str.split, TAKEN_FOR.split(",")):
    SWAPS[one].add(other)
    SWAPS[other].add(one)
WORDS = [["max", "sum"], ["mean", "sum"]]  # beside the choices of each Literal[...]
TABLES = ("alpha", "alpha_bar", "beta")
# Calls that are easily forgotten: x.sqrt() -> x, torch.sqrt(x) -> x.
FORGOTTEN = re.compile(
    "sqrt|log|exp|square|abs|cumprod|clamp|round|double|float|to|type|detach|eval|train|sort|sorted|reduce|gather"
    "|contiguous|requires_grad_|flip|clone|deepcopy"
)
OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
# Types, names and words for people: no change there changes what the program does.
SILENT_FIELDS = re.compile("annotation|returns|decorator_list|msg|names|type_params")
FOR_PEOPLE = re.compile("help|description|epilog|metavar|title|prog|progress|stacklevel")
DEVICE = re.compile(r"device|cuda|mps|\.cpu\(")
SILENT = ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Raise


class Mutant(NamedTuple):
    """A changed module, and what was changed where."""

    room: str
    where: str  # function:line
    change: str
    lines: tuple[int, int]  # a test that runs one of them meets the change
    text: str


class Facts:
    """What the names and words of a module can be taken for."""

    def __init__(self, tree: ast.AST, words: Iterable[list[str]] = ()) -> None:
        self.words = [*WORDS, *words, *literals(tree)]
        self.modules = {"F"}
        self.keys: dict[str, list[str]] = defaultdict(list)  # words in x["word"]
        self.sibling: dict[str, str] = {}  # field -> its class's next one of that type
        self.inside: set[tuple[str, str]] = set()  # (y, x): self.x and self.y.x exist
        attributes, makers = defaultdict(set), []
        for node in ast.walk(tree):
            match node:
                case ast.Import(imported):
                    self.modules |= {alias.asname or alias.name for alias in imported}
                case ast.Subscript(value, ast.Constant(str(key))):
                    self.keys[ast.unparse(value)].append(key)
                case ast.ClassDef(owner, body=body):
                    same: dict[str, list[str]] = defaultdict(list)
                    for part in [*body, *ast.walk(node)]:
                        match part:
                            case ast.AnnAssign(ast.Name(name), kind) if part in body:
                                if name not in same[ast.unparse(kind)]:
                                    same[ast.unparse(kind)].append(name)
                            case ast.Assign([ast.Attribute(ast.Name("self"), y)], made):
                                if isinstance(made, ast.Call):
                                    makers.append((owner, y, ast.unparse(made.func)))
                            case ast.Attribute(ast.Name("self"), name, ast.Store()):
                                attributes[owner].add(name)
                    for fields in same.values():
                        attributes[owner].update(fields)
                        self.sibling |= zip(fields, [*fields[1:], fields[0]])
        for owner, y, maker in makers:
            self.inside |= {(y, x) for x in attributes[owner] & attributes[maker]}


def literals(tree: ast.AST) -> list[list[str]]:
    """The choices of every Literal[...]."""
    found = (ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Subscript))
    return [re.findall(r"'(\w+)'", text) for text in found if text.startswith("Literal")]


def without(things: list[Any], i: int) -> list[Any]:
    return things[:i] + things[i + 1 :]


def changes(node: ast.AST, facts: Facts) -> Iterator[ast.AST]:
    """Every small change of one expression or statement."""
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, ast.Mult | ast.Div | ast.Add | ast.Sub):
                yield left  # the second factor or term is forgotten
            if isinstance(op, ast.Mult | ast.Add):
                yield right
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield operand
        case ast.BoolOp(_, [*_, last] as values):
            yield last
            yield values[0]
        case ast.Compare(left, ops, right):
            for i, old in enumerate(ops):
                changed = [*ops[:i], OPERATORS[type(old)](), *ops[i + 1 :]]
                yield ast.Compare(left, changed, right)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            if value not in (0, 1):
                yield ast.Constant(value - 1)
        case ast.Constant(str(value)):
            choices = {w for group in facts.words if value in group for w in group}
            yield from map(ast.Constant, sorted(choices))
        case ast.Call(function, args, keywords):
            match function:
                case ast.Attribute(value, name) if FORGOTTEN.fullmatch(name):
                    given = ast.unparse(value) in (*facts.modules, "self.accelerator")
                    yield args[0] if given and args else value
            for i in range(len(args) - 1):
                yield ast.Call(function, [*args[:i], args[i + 1], args[i], *args[i + 2 :]], keywords)
            if len(args) > 1:
                yield ast.Call(function, args[:-1], keywords)
            for i, keyword in enumerate(keywords):
                if not FOR_PEOPLE.fullmatch(keyword.arg or "help"):
                    yield ast.Call(function, args, without(keywords, i))
        case ast.Attribute(value, name, ast.Load() as load):
            for taken in sorted({*SWAPS[name], facts.sibling.get(name, name)}):
                yield ast.Attribute(value, taken, load)
            if name in TABLES and isinstance(value, ast.Name):
                # In float32, 1 - alpha_bar loses its digits.
                yield ast.Call(ast.Attribute(node, "float", load), [], [])
            match value:
                case ast.Attribute(outer, y) if (y, name) in facts.inside:
                    yield ast.Attribute(outer, name, load)
                case ast.Name(outer):
                    for y in sorted(y for y, x in facts.inside if x == name != outer):
                        yield ast.Attribute(ast.Attribute(value, y, load), name, load)
        case ast.Name("alpha_bar" | "alpha_bar_prev" as name, ast.Load() as load):
            yield ast.Name("alpha_bar" if name == "alpha_bar_prev" else "alpha_bar_prev", load)
        case ast.Subscript(value, ast.Name("t") as index, ast.Load() as load):
            yield ast.Subscript(value, ast.BinOp(index, ast.Sub(), ast.Constant(1)), load)
        case ast.Subscript(value, ast.Constant(str(key)), load):
            known = facts.keys[ast.unparse(value)]
            yield ast.Subscript(value, ast.Constant(known[(known.index(key) + 1) % len(known)]), load)
        case ast.Tuple([_, _, *_] as elts, ast.Load() as load):
            if all(isinstance(e, ast.Constant) for e in elts):
                for i in range(len(elts)):
                    yield ast.Tuple(without(elts, i), load)
        case ast.comprehension(target, ast.Name() | ast.Attribute() as all_, ifs, _):
            only = ast.Subscript(all_, ast.Slice(ast.Constant(-1)), ast.Load())
            yield ast.comprehension(target, only, ifs, 0)
        # Statements that are easily forgotten, because the rest makes sense without them.
        case ast.Expr(ast.Call()) | ast.Break() | ast.Continue() | ast.Delete():
            yield ast.Pass()
        case ast.If(_, [*_, ast.Raise()], []) | ast.Assert():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()
        case ast.Assign([ast.Name(name)], value):
            if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(value)):
                yield ast.Pass()
        case ast.AugAssign(target, op, value):
            yield ast.Pass()
            yield ast.Assign([target], value)
            if type(op) in OPERATORS:
                yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.With(_, body):
            yield ast.If(ast.Constant(True), body, [])


def is_guard(node: ast.AST) -> bool:
    """A refusal of bad input, or a choice by device: no equation says anything of them."""
    match node:
        case ast.If(test, body) if any(isinstance(inner, ast.Raise) for inner in body):
            return True
        case ast.If(test) | ast.IfExp(test):
            return bool(DEVICE.search(ast.unparse(test)))
        case ast.Expr(value) | ast.Assign(_, value):
            return is_guard(value)
        case ast.Call(called):
            return bool(re.search(r"(^|[._])(check|refuse)|warn$", ast.unparse(called)))
    return False


def mutants(module: str, source: str, words: Iterable[list[str]] = ()) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    tree = ast.parse(source)
    facts, found = Facts(tree, words), dict[str, Mutant]()

    def walk(node: ast.AST, name: str, marked: bool, lines: tuple[int, int]) -> None:
        for part, value in ast.iter_fields(node):
            if not SILENT_FIELDS.fullmatch(part):
                many = isinstance(value, list)
                for key in range(len(value)) if many else [part]:
                    visit(node, value if many else vars(node), key, name, marked, lines)

    def visit(node: ast.AST, place: Any, key: Any, name: str, marked: bool, lines: Any) -> None:
        old = place[key]
        match old:
            case ast.FunctionDef() | ast.ClassDef():
                name = f"{name}.{old.name}".lstrip(".")
                text = ast.get_docstring(old) or ""
                marked = marked or bool(re.search(r"^\s*Equation: ", text, re.M))
                if isinstance(old, ast.FunctionDef):  # who runs it meets its defaults
                    lines = (old.lineno, old.end_lineno)
                walk(old, name, marked, lines)
                return
            case ast.Expr(ast.Constant()) | ast.Subscript(ast.Name("Literal")):
                return  # a docstring, a type
            case ast.keyword(str(word)) if FOR_PEOPLE.fullmatch(word):
                return
            case ast.stmt() if lines[0]:  # in a function
                body = getattr(old, "body", None)
                last = body[0].lineno - 1 if body else old.end_lineno
                lines = (old.lineno, max(old.lineno, last or 0))
        if not isinstance(old, ast.AST) or isinstance(old, SILENT):
            return
        marked = marked and not is_guard(old)
        news = [*changes(old, facts)]
        # A comparison has its own opposites.
        if isinstance(old, ast.Call | ast.Name | ast.Attribute | ast.BoolOp) and (
            key == "test" or (isinstance(node, ast.comprehension) and place is node.ifs)
        ):
            news.append(ast.UnaryOp(ast.Not(), old))
        before = ast.unparse(old)
        for new in map(ast.fix_missing_locations, news):
            after = ast.unparse(new)
            place[key] = new
            text = ast.unparse(tree)
            place[key] = old
            less = len(DEVICE.findall(before)) > len(DEVICE.findall(after))
            device = less and isinstance(old, ast.Call | ast.Assign)
            room = f"{module}:{'equations' if marked and not device else 'rest'}"
            where = f"{name}:{getattr(old, 'lineno', lines[0])}"
            if after != before:
                change = f"{before}  ->  {after}"
                found.setdefault(text, Mutant(room, where, change, lines, text))
        if not (isinstance(old, ast.Call) and ast.unparse(old.func).endswith("warn")):
            walk(old, name, marked, lines)

    walk(tree, "", False, (0, sys.maxsize))
    return list(found.values())


def hashed(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def chosen(found: list[Mutant], most: int | None) -> list[Mutant]:
    """A room's mutants with the smallest hashes: code elsewhere hardly changes them."""
    rooms: dict[str, list[tuple[str, Mutant]]] = defaultdict(list)
    twins: Counter[str] = Counter()
    for mutant in found:
        name = f"{mutant.room} {mutant.where.split(':')[0]} {mutant.change}"
        rooms[mutant.room].append((hashed(name, str(twins[name])), mutant))
        twins[name] += 1
    return [
        mutant
        for room, those in rooms.items()
        for _, mutant in sorted(those)[: most or (SAMPLE if "rest" in room else None)]
    ]


class Watch:
    """A plugin of pytest: it runs the wanted tests and remembers what happened.

    With `cover` it notes which test runs which line. A fixture that several tests share counts for each of them.
    """

    def __init__(self, wanted: Any = None, cover: Any = None) -> None:
        """`wanted`: each test to run, in this order, and the seconds after which the process is killed."""
        self.wanted, self.cover, self.now = wanted, cover, ""
        self.users: dict[str, list[str]] = defaultdict(list)
        self.seconds: dict[str, float] = defaultdict(float)
        self.marked: list[str] = []
        self.failed: list[str] = []

    def run(self, *options: str) -> None:
        rewritten = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is loaded
        options = (f"--basetemp={Path.cwd()}/tmp", "-qW", rewritten, *options)
        code = pytest.main(["-p", "no:cacheprovider", *options], plugins=[self])
        if code > pytest.ExitCode.INTERRUPTED:
            raise RuntimeError(f"pytest ended with {code}")

    def switch(self, context: str) -> None:
        # A test's processes read it from there.
        self.now = os.environ["MUTANTS_CONTEXT"] = context
        if self.cover is not None:
            self.cover.switch_context(context)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.wanted is not None:
            known = {item.nodeid: item for item in items}
            items[:] = [known[name] for name in self.wanted if name in known]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:  # a file that cannot be imported
            self.failed.append(report.nodeid)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.switch(nodeid)
        if self.wanted is not None:
            signal.alarm(int(self.wanted[nodeid]))

    def pytest_runtest_setup(self, item: Any) -> None:
        for name in (item.nodeid, *item.fixturenames):
            self.users[name].append(item.nodeid)
        if item.get_closest_marker("equation"):
            self.marked.append(item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        before = self.now
        if fixturedef.scope != "function":
            self.switch(fixturedef.argname)
        try:
            return (yield)
        finally:
            self.switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:  # a skipped test is no judge either
            self.failed.append(report.nodeid)


def measure(tests: dict[str, float]) -> dict[str, Any]:
    """Run the tests on the unchanged code: which run which lines, in which time?"""
    here = Path.cwd()
    (here / "rc").write_text(
        "[run]\ninclude = */ddpm_nb/*\nparallel = true\nsigterm = true\ncore = ctrace\n"
        f"context = ${{MUTANTS_CONTEXT-}}\ndata_file = {here}/covered\n"
        "disable_warnings = no-data-collected, module-not-imported, couldnt-parse\n"
    )
    os.environ["COVERAGE_PROCESS_START"] = f"{here}/rc"
    cover = coverage.Coverage(config_file="rc")
    watch = Watch(cover=cover)
    with cover.collect():
        watch.run(*tests)
    if not all("::" in name for name in watch.failed):
        raise RuntimeError((here / "output").read_text()[-2000:])
    cover.save()
    cover.combine()
    data, lines, bad = cover.get_data(), dict[str, Any](), {*watch.failed}
    for path in data.measured_files():
        lines[Path(path).stem] = {
            line: sorted({test for c in contexts for test in watch.users[c]} - bad)
            for line, contexts in data.contexts_by_lineno(path).items()
        }
    return {**vars(watch), "lines": lines, "wanted": None, "cover": None}


def judge(tests: dict[str, float]) -> dict[str, Any]:
    """Run the tests, one file after the other, until one fails; a loop without an end is killed."""
    for file in dict.fromkeys(name.split("::")[0] for name in tests):
        watch = Watch(tests)
        signal.alarm(IMPORTED)
        watch.run("-x", file)
        if watch.failed:
            return {"by": watch.failed[0]}
    return {"by": ""}


class Job(NamedTuple):
    """Tests to run on a change of the package, each with its limit in seconds; a module's new text."""

    key: str
    tests: dict[str, float]
    module: str = ""
    text: str = ""


def start(work: Callable[[dict[str, float]], dict[str, Any]], job: Job, folder: Path) -> int:
    """Do the work in a copy of the project, in a process of its own, and leave the answer there; its number."""
    if pid := os.fork():
        return pid
    answer = {}
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for part in ("ddpm_nb", "tests", "tools", "book", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part)
        for path in filter(Path.is_file, ROOT.iterdir()):
            shutil.copy2(path, folder)
        if job.module:
            (folder / f"ddpm_nb/{job.module}.py").write_text(job.text)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        port = str(20_000 + os.getpid() % 20_000)  # of torchrun
        os.environ |= {"PYTHONPATH": str(folder), "PET_MASTER_PORT": port}
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        answer = work(job.tests)
    except BaseException:
        answer = {"broken": traceback.format_exc()}
    finally:
        (folder / "answer").write_text(json.dumps(answer))
        os._exit(0)


def stop(pid: int) -> None:
    """End a process and all that it started."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def answers(
    work: Callable[[dict[str, float]], dict[str, Any]], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The answer of each job, some at a time; empty if its process crashed, or was killed at a time limit."""
    waiting, running = iter(jobs), dict[int, tuple[Job, Path]]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as copies:
        try:
            while True:
                for job in itertools.islice(waiting, workers - len(running)):
                    folder = Path(tempfile.mkdtemp(dir=copies))
                    running[start(work, job, folder)] = job, folder
                if not running:
                    return
                for pid, (job, folder) in [*running.items()]:
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        stop(pid)
                        del running[pid]
                        answer = folder / "answer"
                        found = json.loads(answer.read_text()) if answer.exists() else {}
                        shutil.rmtree(folder)
                        if "broken" in found:
                            raise RuntimeError(found["broken"])
                        yield job.key, found
                time.sleep(0.02)
        finally:
            for pid in running:
                stop(pid)


def measured(files: list[str]) -> dict[str, Any]:
    """What `measure` finds, kept until the package or the tests change."""
    watched = sorted([*ROOT.glob("ddpm_nb/*.py"), *ROOT.glob("tests/*.py")])
    key = hashed(*files, *(path.read_text() for path in watched))
    kept = KEPT / f"lines-{key}.json"
    if not kept.exists():
        print(f"which tests run which lines? ({len(files)} files)", flush=True)
        [(_, answer)] = answers(measure, [Job("", dict.fromkeys(files, 0.0))], 1)
        kept.write_text(json.dumps(answer))
    known: dict[str, Any] = json.loads(kept.read_text())
    for name in sorted({*known["failed"]}):
        print(f"no judge, since it fails or is skipped without any mutant: {name}")
    return known


def in_order(tests: Iterable[str], seconds: dict[str, float], caught: Counter[str]) -> list[str]:
    """First the files and tests that caught others like it, then the quick ones."""
    files: dict[str, float] = defaultdict(float)
    for test in tests:
        files[test.split("::")[0]] += seconds[test]

    def order(test: str) -> Any:
        file = test.split("::")[0]
        return -caught[file], files[file], file, -caught[test], seconds[test], test

    return sorted(tests, key=order)


def table(known: dict[str, Mutant], verdicts: dict[str, str]) -> str:
    """How many of each room were caught, and what survived."""
    rooms: dict[str, list[tuple[Mutant, str]]] = defaultdict(list)
    for key, mutant in known.items():
        rooms[mutant.room].append((mutant, verdicts.get(key, "")))
    lines = [f"{'room':24} mutants   tried  caught   share"]
    survivors = []
    for room, those in sorted(rooms.items()):
        tried = [(m, verdict) for m, verdict in those if verdict]
        alive = [(m, verdict) for m, verdict in tried if "caught" not in verdict]
        caught = len(tried) - len(alive)
        share = f"{caught / len(tried):7.1%}" if tried else ""
        lines.append(f"{room:24} {len(those):7} {len(tried):7} {caught:7} {share}")
        for m, verdict in sorted(alive, key=lambda a: int(a[0].where.split(":")[1])):
            change = " ".join(m.change.split())
            survivors.append(f"{room} {m.where} ({verdict}): {change}"[:300])
    return "\n".join([*lines, "", *survivors])


def main() -> int:
    """Mutate, judge, report."""
    parser = argparse.ArgumentParser(description="Break the package; see tests fail.")
    parser.add_argument("rooms", nargs="*", help="such as loss or loss:rest")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--most", type=int, help="at most so many mutants of a room")
    parser.add_argument("--tests", default="test_*.py", help="files that may judge")
    given = parser.parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    paths = {p.stem: p for p in sorted(ROOT.glob("ddpm_nb/*.py")) if p.stem not in NO_ROOM}
    rooms = {f"{name}{kind}": name for name in paths for kind in ("", ":equations", ":rest")}
    if unknown := sorted({*given.rooms} - {*rooms}):
        raise SystemExit(f"make mutants: no such room: {' '.join(unknown)}")
    words = [group for p in paths.values() for group in literals(ast.parse(p.read_text()))]
    found = [
        mutant
        for name in dict.fromkeys(rooms[room] for room in given.rooms or rooms)
        for mutant in chosen(mutants(name, paths[name].read_text(), words), given.most)
        if not given.rooms or {name, mutant.room} & {*given.rooms}
    ]
    texts = {f"tests/{p.name}": p.read_text() for p in sorted(ROOT.glob("tests/*.py"))}
    for name in HEAVY:
        if any(name in text for text in texts.values()):
            importlib.import_module(name)
    KEPT.mkdir(parents=True, exist_ok=True)
    run = measured([name for name in texts if Path(name).match(f"tests/{given.tests}")])
    journal = KEPT / "verdicts.jsonl"
    text = journal.read_text() if journal.exists() else ""
    verdicts = dict(json.loads(line) for line in text.splitlines() if line[-1:] == "]")
    helpers = [text for name, text in texts.items() if "/test_" not in name]
    seconds, known, judges = run["seconds"], dict[str, Mutant](), dict[str, set[str]]()
    whole: Counter[str] = Counter()  # seconds of a file; a fixture counts where it was first needed
    for name, took in seconds.items():
        whole[name.split("::")[0]] += took
    for mutant in found:
        module, kind = mutant.room.split(":")
        first, last = mutant.lines
        lines = run["lines"].get(module, {}).items()
        tests = {t for line, those in lines if first <= int(line) <= last for t in those}
        if kind == "equations":
            tests &= {*run["marked"]}
        key = hashed(mutant.text, *helpers, *(texts[f] for f in sorted({t.split("::")[0] for t in tests})))
        known[key] = mutant
        if not tests:
            verdicts[key] = "no test runs it"
        elif key not in verdicts:
            judges[key] = tests
    caught: Counter[tuple[str, str]] = Counter()  # (function, its test or file): mutants until now

    def jobs() -> Iterator[Job]:
        for key, tests in judges.items():
            room, where = known[key].room, known[key].where.split(":")[0]
            first = in_order(tests, seconds, Counter({what: n for (w, what), n in caught.items() if w == where}))
            yield Job(key, {t: 30 + 5.0 * whole[t.split("::")[0]] for t in first}, room.split(":")[0], known[key].text)

    print(f"{len(known)} mutants, {len(judges)} to try", flush=True)
    try:
        with journal.open("a") as file:
            for key, answer in answers(judge, jobs(), given.workers):
                by = answer.get("by", "the end of its process or its time")
                verdicts[key] = f"caught by {by}" if by else "survived"
                where = known[key].where.split(":")[0]
                caught.update({(where, by), (where, by.split("::")[0])})
                file.write(f"\n{json.dumps([key, verdicts[key]])}")  # a torn line stays alone
                file.flush()
                if not by:
                    print(f"survived: {known[key].where}: {known[key].change}"[:200], flush=True)
    except KeyboardInterrupt:
        print("stopped; the next call goes on")
    print(table(known, verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
