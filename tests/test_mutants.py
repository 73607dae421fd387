"""The tool that breaks the package on purpose: which mutants it makes, who judges them, and that it goes on."""

import re
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT, run

from tools.mutants import chosen, in_order, mutants


def changes(source: str, *words: list[str]) -> set[str]:
    """What is put in the place of what, in a small module."""
    found = mutants("small", textwrap.dedent(source), words)
    assert len({m.text for m in found}) == len(found)
    assert all(compile(m.text, m.change, "exec") for m in found)
    return {" ".join(m.change.split()).replace("  ", " ") for m in found}


def body(statement: str, *words: list[str]) -> set[str]:
    """The same, for one statement of a function."""
    return changes("def f():\n" + textwrap.indent(statement, "    "), *words)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        # Arithmetic, comparisons, conditions.
        ("return a - b", {"a - b -> a + b", "a - b -> a"}),
        ("return a * b", {"a * b -> a / b", "a * b -> a", "a * b -> b"}),
        ("return -a", {"-a -> a"}),
        ("return a > b", {"a > b -> a >= b"}),
        ("return a is b", {"a is b -> a is not b"}),
        ("return a and b", {"a and b -> a", "a and b -> b"}),
        ("return a if b else c", {"b -> not b"}),
        ("if a == b: pass", {"a == b -> a != b"}),
        ("return [a for a in b if c]", {"c -> not c", "for a in b if c -> for a in b[-1:] if c"}),
        ("return x[t]", {"x[t] -> x[t - 1]"}),
        ("return 3", {"3 -> 4", "3 -> 2"}),
        ("return False", {"False -> True"}),
        # A call forgotten, its arguments in another order, one or a keyword left out.
        ("return x.sqrt()", {"x.sqrt() -> x"}),
        ("return f(a, b)", {"f(a, b) -> f(b, a)", "f(a, b) -> f(a)"}),
        ("return f(clip=c, **d)", {"f(clip=c, **d) -> f(**d)"}),
        ("return x.mean()", {"x.mean -> x.sum"}),
        ("return model.train()", {"model.train() -> model", "model.train -> model.eval"}),
        # Another type of numbers.
        ("return torch.float64", {"torch.float64 -> torch.float32"}),
        ("return x.double()", {"x.double() -> x"}),
        ("return s.alpha_bar", {"s.alpha_bar -> s.alpha", "s.alpha_bar -> s.alpha_bar.float()"}),
        # Another choice.
        ("return f('max')", {"'max' -> 'sum'"}),
        ("for name in ('a', 'b'): pass", {"('a', 'b') -> ('a',)", "('a', 'b') -> ('b',)"}),
        ("return v['a'], v['b']", {"v['a'] -> v['b']", "v['b'] -> v['a']"}),
        # A statement forgotten.
        ("optimizer.step()", {"optimizer.step() -> pass"}),
        ("self.x = y", {"self.x = y -> pass"}),
        ("x = y", set()),  # without it nothing works: no use to try
        ("x = f(x)", {"x = f(x) -> pass"}),
        ("x += y", {"x += y -> pass", "x += y -> x = y", "x += y -> x -= y"}),
        ("with a: b", {"with a: b -> if True: b"}),
        ("if a: raise b", {"if a: raise b -> pass", "a -> not a"}),
        # Words for people.
        ("'''A docstring.'''", set()),
        ("raise ValueError('max: ' + x)", set()),
        ("warnings.warn('max')", {"warnings.warn('max') -> pass"}),
        ("return f'{x + 1}'", set()),
        ("return f(help='max', progress=True)", set()),
    ],
)  # fmt: skip
def test_an_expression_or_statement_has_exactly_these_mutants(
    statement: str, expected: set[str]
) -> None:
    assert body(statement) == expected


def test_a_function_of_a_module_gives_its_argument_back() -> None:
    found = changes("import torch\ndef f(): return torch.sqrt(x)")
    assert found == {"torch.sqrt(x) -> x"}


def test_defaults_change_in_functions_and_in_records() -> None:
    choices = "Variance = Literal['large', 'small']\n"
    default = "def f(clip=False, *, variance: Variance='large'): pass"
    assert changes(choices + default) == {"False -> True", "'large' -> 'small'"}
    assert changes("class Record:\n    T: int = 1000") == {
        "1000 -> 1001",
        "1000 -> 999",
    }


def test_choices_of_another_module_are_known() -> None:
    assert body("return f('large')", ["large", "small"]) == {"'large' -> 'small'"}


RECORDS = """
class TrainStep:
    step: int
    loss: Tensor
    grad_norm: Tensor

class EMA:
    def __init__(self, model):
        self.model = model

class Trainer:
    def __init__(self, model):
        self.model, self.other = model, None
        self.ema = EMA(model)

    def f(self):
        return {}
"""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("u.loss", "u.loss -> u.grad_norm"),
        ("u.grad_norm", "u.grad_norm -> u.loss"),
        ("self.ema.model", "self.ema.model -> self.model"),
        ("self.model", "self.model -> self.ema.model"),
        ("trainer.ema.model", "trainer.ema.model -> trainer.model"),
    ],
)
def test_one_attribute_for_another(expression: str, expected: str) -> None:
    without = changes(RECORDS.format("nothing"))
    assert changes(RECORDS.format(expression)) - without == {expected}


# As they stood in the package, and survived.
SURVIVORS = [
    ("loss = (noise - predicted).square().mean()", ".mean -> (noise - predicted).square().sum"),
    ("order = torch.randperm(n, generator=generator)", "-> torch.randperm(n)"),
    ("for i in range(0, len(x) - size + 1, size): pass", "1 -> 2"),
    ("optimizer.zero_grad(set_to_none=True)", "-> pass"),
    ("for name in ('beta', 'alpha', 'alpha_bar'): pass", "-> ('beta', 'alpha_bar')"),
    ("y = (1 - schedule.alpha_bar[t]).sqrt()", "-> schedule.alpha_bar.float()"),
    ("t = torch.randint(1, T + 1, shape, generator=generator)", "-> torch.randint(1, T + 1, shape)"),
    ("loss = simple_loss(model, x_0, schedule, generator)", "-> simple_loss(model, x_0, schedule)"),
    ("steps = sample_steps(model, variance=variance, clip=clip)", "-> sample_steps(model, clip=clip)"),
    ("steps = sample_steps(model, variance=variance, clip=clip)", "-> sample_steps(model, variance=variance)"),
    ("drawn = sample(model, shape, clip=True)", "-> sample(model, shape)"),
    ("levels = pictures.clamp(-1, 1) + 1", "-> pictures"),
    ("most = accelerator.reduce(found, 'max')", "-> 'sum'"),
    ("votes = self.accelerator.reduce(votes, 'sum')", "-> votes"),
    ("self._backward(piece, last=piece is pieces[-1])", "1 -> 2"),
    ("torch.manual_seed(config.seed + 1 + self.accelerator.process_index)", "-> config.seed + 1"),
    ("small = image.resize(size, Image.Resampling.LANCZOS)", "-> Image.Resampling.NEAREST"),
    ("length = torch.stack([u.grad_norm for u in updates]).mean()", "-> for u in updates[-1:]"),
    ("with _evaluating(features):\n    found = features(batch)", "-> if True: found = features(batch)"),
    ("score = query @ key * query.shape[-1] ** -0.5", "-> query @ key"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "change"), SURVIVORS)
def test_faults_that_once_survived_are_made(statement: str, change: str) -> None:
    assert [made for made in body(statement) if made.endswith(change)]


MIXED = '''
def plain(x):
    return x + 1

def check_x(x):
    if x < 0:
        raise ValueError(x)

class Table:
    """A table.

    Equation: def-table.
    """

    def f(self, x, device):
        check_x(x)
        t = check_t(t)
        if x.dim() != 2:
            raise ValueError(x)
        if x.is_cuda:
            return x + 3
        x = x.cpu()
        return g(x * 2, device=device)
'''


def test_equations_and_the_rest_have_rooms_of_their_own() -> None:
    rooms: dict[str, set[str]] = {"small:equations": set(), "small:rest": set()}
    for mutant in mutants("small", MIXED):
        rooms[mutant.room].add(mutant.change)
    inside = rooms["small:equations"]
    assert {"x * 2  ->  x", "2  ->  3", "2  ->  1"} < inside
    rest = rooms["small:rest"] - inside
    assert {
        "x + 1  ->  x",
        "check_x(x)  ->  pass",
        "t = check_t(t)  ->  pass",
        "x + 3  ->  x",
        "x = x.cpu()  ->  pass",
        "x.dim() != 2  ->  x.dim() == 2",
    } < rest
    assert "g(x * 2, device=device)  ->  g(x * 2)" in rest


def test_who_meets_a_change() -> None:
    source = "X = 1\ndef f(a=2):\n    if a:\n        b = 3\n    return 4\n"
    met = {m.change[0]: m.lines for m in mutants("small", source) if "->" in m.change}
    assert met["1"][1] > 10**6  # all tests of the module: it is run at import
    assert (met["2"], met["a"]) == ((2, 5), (3, 3))
    assert (met["3"], met["4"]) == ((4, 4), (5, 5))


def test_code_elsewhere_changes_few_of_the_chosen() -> None:
    function = "def f{0}(x):\n    return x * {0} - x / {0}\n"
    code = "".join(function.format(i) for i in range(10, 30))
    before = {m.change for m in chosen(mutants("small", code), None)}
    assert len(chosen(mutants("small", code), None)) == 150
    after = mutants("small", "def new(y):\n    return y + 5\n\n" + code)
    kept = before & {m.change for m in chosen(after, None)}
    assert len(kept) >= len(before) - 7
    assert len(chosen(mutants("small", code), 7)) == 7


HOUSE = {
    "ddpm_nb/__init__.py": "",
    "ddpm_nb/small.py": '''
        def double(x):
            """Twice x.

            Equation: def-double.
            """
            return x + x

        def half(x):
            return x / 2

        def never(x):
            return -x

        LIST = [1, 2][:1]
        ''',
    "ddpm_nb/_room.py": "def same(x): return -x",
    "ddpm_nb/text.py": '"""A chapter that defines nothing."""',
    "tests/test_room.py": """
        from ddpm_nb._room import same

        def test_same():
            assert same(1) == -1
        """,
    "tests/test_small.py": """
        import subprocess, sys, pytest
        from ddpm_nb.small import LIST, double, half

        FIRST, = LIST

        @pytest.mark.equation("def-double")
        def test_weak():
            assert double(0) == 0

        def test_strong():  # is not marked: it must not judge an equation
            assert double(1) == 2

        @pytest.fixture(scope="module")
        def shared():
            return half(4)

        def test_first(shared):
            assert shared

        def test_fixture_counts_for_the_second(shared):
            assert shared == 2

        def test_fails_anyway():
            assert half(4) == 5
        """,
    "pyproject.toml": """
        [tool.pytest.ini_options]
        markers = ["equation(label): x"]
        """,
}


def test_the_whole_tool_on_a_small_house(tmp_path: Path) -> None:
    for name, text in HOUSE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    for name in ("tools", "book", "benchmarks"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "tools.mutants", "--workers", "1"]

    def tried(*rooms: str) -> str:
        done = run([*command, *rooms], tmp_path, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    out = tried()
    assert "is skipped without any mutant: tests/test_small.py::test_fails_any" in out
    assert re.search(r"small:equations +2 +2 +0 ", out)  # x - x and x: both 0 at 0
    assert re.search(r"small:rest +9 +9 +5 ", out)
    assert "never:13 (no test runs it): -x -> x" in out
    assert (tmp_path / "ddpm_nb/small.py").read_text() == textwrap.dedent(
        HOUSE["ddpm_nb/small.py"]
    )

    # A verdict is kept; the last one is lost, as after a kill; only it is tried again.
    journal = tmp_path / "_build/mutants/verdicts.jsonl"
    assert '"caught by tests/test_small.py"]' in journal.read_text()  # at its import
    lines = journal.read_text().strip().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:9])
    again = tried()
    assert f"{len(lines) + 1} mutants, 1 to try" in again
    assert again.partition("room ")[2] == out.partition("room ")[2]
    assert tried().count("0 to try") == 1

    # A room without a chapter is a room; a chapter may define nothing.
    assert re.search(r"_room:rest +1 +1 +1 ", out)
    assert "1 mutants, 0 to try" in tried("_room", "text")
    assert "0 mutants, 0 to try" in tried("text", "_room:equations")
    with pytest.raises(AssertionError, match="no such room: large"):
        tried("small", "large:rest")


def test_an_endless_test_ends_with_its_process(tmp_path: Path) -> None:
    for name in ("tools", "book", "benchmarks", "ddpm_nb", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "tests/test_a.py").write_text(
        "def test_good(): pass\ndef test_endless():\n    while True: pass\n"
    )
    (tmp_path / "tests/test_b.py").write_text("def test_bad(): assert False\n")
    code = """
from tools.mutants import Job, answers, judge
good, endless, bad = "tests/test_a.py::test_good", "tests/test_a.py::test_endless", "tests/test_b.py::test_bad"
limits = {good: 9.0, endless: 1.0, bad: 9.0}
jobs = [Job(str(tests), {t: limits[t] for t in tests}) for tests in ([good, endless, bad], [good], [good, bad])]
print([answer for _, answer in answers(judge, jobs, 1)])
"""
    done = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(ROOT))
    assert (
        done.stdout.splitlines()[-1]
        == "[{}, {'by': ''}, {'by': 'tests/test_b.py::test_bad'}]"
    ), done.stderr


def test_who_caught_others_of_a_function_judges_first() -> None:
    seconds = {"a::quick": 1.0, "a::slow": 3.0, "b::one": 0.5, "b::two": 0.25}
    assert in_order(seconds, seconds, Counter()) == [
        "b::two",
        "b::one",
        "a::quick",
        "a::slow",
    ]
    caught = Counter({"a": 1, "a::slow": 1})
    assert in_order(seconds, seconds, caught) == [
        "a::slow",
        "a::quick",
        "b::two",
        "b::one",
    ]
