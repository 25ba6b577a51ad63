"""docs/plugins.md: every hook is there with its arguments, every snippet runs, and what is shown is what is printed."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import toolkit
from tests.conftest import Install
from tests.core import tiny
from toolkit import Recipe, hookspecs, plugins, types
from toolkit.cli import main
from toolkit.testing import Project
from toolkit.trace import trace_hooks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
SPECS = {name: spec for name, spec in vars(hookspecs).items() if name in plugins.HOOKS}
TUTORIAL = PAGE.partition("\n## 5. ")[0]
WRITTEN = ("toolkit_hello", "toolkit_shapes", "toolkit_greeter")


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The file that a block says it goes into."""
        found = re.match(r"# ([\w./-]+)\n", self.text)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


# ---- typing what the tutorial says ---------------------------------------------------------------------


class Reader:
    """Somebody who types the page, block by block, in a folder and an environment of their own."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self.printed = ""
        self.failed: list[str] = []

    def follow(self, block: Block) -> None:
        if block.language == "text" and re.search("^error: |^  failed ", block.text, re.MULTILINE):
            self.failed = []
        assert self.failed == [], self.printed
        if block.language == "":
            self.printed = "".join(self.type(line) for line in block.text.splitlines())
        elif block.language == "text":
            assert_shown(block.text, self.printed.replace(str(self.folder), ""))
        elif block.language == "toml":
            assert block.text in (self.folder / "hello" / "pyproject.toml").read_text()
        elif block.path is not None:
            self.edit(self.folder / block.path, block.text.partition("\n")[2])
        else:
            raise AssertionError(f"what is to be done with this?\n{block.text}")

    def edit(self, path: Path, text: str) -> None:
        """A whole file, or definitions in place of those of the same names."""
        is_whole = path.suffix != ".py" or ast.get_docstring(ast.parse(text)) is not None
        path.write_text(text if is_whole else laid_over(path.read_text(), text))

    def type(self, line: str) -> str:
        program, *arguments = shlex.split(line)
        if program == "toolkit":
            return self.toolkit(arguments)
        if program == "sed":
            return self.outside([program, *arguments])
        if program == "python":
            runpy.run_path(arguments[0], run_name="__main__")
            return ""
        printed = self.outside([str(self.python), "-m", program, *arguments])
        if arguments[:1] == ["install"]:
            sys.path.append(str(self.folder / arguments[-1]))
        return printed

    def toolkit(self, arguments: list[str]) -> str:
        """In this process, which reads the packages anew; what is printed in the order in which it is."""
        for name in [name for name in sys.modules if name.partition(".")[0] in WRITTEN]:
            del sys.modules[name]
        importlib.invalidate_caches()
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if main(arguments) != 0:
                self.failed.append(shlex.join(arguments))
        return said.getvalue()

    def outside(self, command: list[str]) -> str:
        offline = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        offline |= {
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PYTEST_ADDOPTS": "",
        }
        done = subprocess.run(command, env=offline, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def laid_over(source: str, text: str) -> str:
    """Definitions in place of those of the same names, or at the end; imports behind those that are there."""
    lines = source.splitlines(keepends=True)
    pieces: list[tuple[int, int, str]] = []
    there = {getattr(node, "name", None): node for node in ast.parse(source).body}
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.parse(text).body:
        start = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        piece = "".join(text.splitlines(keepends=True)[start - 1 : node.end_lineno])
        old = there.get(getattr(node, "name", ""))
        if isinstance(node, ast.Import | ast.ImportFrom):
            pieces.append((imports[-1].end_lineno or 0, imports[-1].end_lineno or 0, piece))
        elif old is not None:
            first = min([old.lineno, *(one.lineno for one in getattr(old, "decorator_list", []))])
            pieces.append((first - 1, old.end_lineno or 0, piece))
        else:
            pieces.append((len(lines), len(lines), "\n\n" + piece))
    for start, end, piece in sorted(pieces, key=lambda one: one[0], reverse=True):
        lines[start:end] = [piece]
    return "".join(lines)


def assert_shown(page: str, printed: str) -> None:
    """What the page shows, which leaves out lines where it has `…`, stands in what is printed, in this order."""
    rest = [line.rstrip() for line in printed.splitlines()]
    for part in re.split(r"^ *…\n", page, flags=re.MULTILINE):
        shown = [line.rstrip() for line in part.splitlines()]
        for place in range(len(rest) - len(shown) + 1):
            if all(map(alike, shown, rest[place:])):
                rest = rest[place + len(shown) :]
                break
        else:
            raise AssertionError(f"the page shows\n{part}\nbut this was printed:\n{printed}")


_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_CHANGING = re.compile(r"0x[0-9A-F]+|in \d+\.\d+s.*|\d+(\.\d+)? (s|tokens/s)\b|\d+:\d\d left")


def alike(shown: str, printed: str) -> bool:
    """Whether two lines differ in nothing but times, and a little in decimals, which processors compute differently."""
    if shown.endswith("…"):
        printed = printed[: len(shown) - 1] + "…"
    one, other = (_CHANGING.sub("", line).split() for line in (shown, printed))
    if [_DECIMAL.sub("#", part) for part in one] != [_DECIMAL.sub("#", part) for part in other]:
        return False
    numbers = zip(_DECIMAL.findall(" ".join(one)), _DECIMAL.findall(" ".join(other)), strict=True)
    return all(
        abs(float(ours) - float(theirs)) <= 0.25 * max(1.0, abs(float(ours))) for ours, theirs in numbers
    )


@pytest.mark.parametrize(
    ("shown", "printed", "is_shown"),
    [
        ("one\ntwo\n", "zero\none\ntwo\nthree\n", True),
        ("one\nthree\n", "one\ntwo\nthree\n", False),
        ("one\n…\nthree\n", "one\ntwo\nthree\n", True),
        ("three\n…\none\n", "one\ntwo\nthree\n", False),
        ("5 steps, 3 s of training\n", "5 steps, 17 s of training\n", True),
        ("5 steps, 3 s of training\n", "6 steps, 3 s of training\n", False),
        ("loss  1.1267  0.0163\n", "loss  1.1266  0.1201\n", True),
        ("loss  1.1267  0.0163\n", "loss  1.1266  0.3163\n", False),
        ("hint: sum over…\n", "hint: sum over the targets\n", True),
        ("hint: sum over…\n", "hint: sum of the targets\n", False),
    ],
)
def test_what_is_not_printed_is_found(shown: str, printed: str, is_shown: bool) -> None:
    with contextlib.nullcontext() if is_shown else pytest.raises(AssertionError):
        assert_shown(shown, printed)


def test_definitions_go_where_the_page_says() -> None:
    source = "import a\n\n\n@once\ndef f():\n    return 1\n\n\nx = f()\n"
    text = "import b\n\n\n@twice\n@thrice\ndef f():\n    return 2\n\n\nclass G: ...\n"
    assert laid_over(source, text) == (
        "import a\nimport b\n\n\n@twice\n@thrice\ndef f():\n    return 2\n\n\nx = f()\n\n\nclass G: ...\n"
    )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "all.pth").write_text(
        "\n".join(path for path in [str(ROOT), *sys.path] if Path(path).is_dir())
    )
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(packages)])
        patch.setattr(sys, "dont_write_bytecode", True)
        yield Reader(folder, environment / "bin" / "python")
    for name in [name for name in sys.modules if name.partition(".")[0] in WRITTEN]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.slow
def test_what_the_tutorial_shows_is_what_is_printed(reader: Reader) -> None:
    for block in blocks(TUTORIAL):
        reader.follow(block)


# ---- the reference -------------------------------------------------------------------------------------


def test_every_hook_is_there_in_calling_order_with_its_arguments() -> None:
    entries = re.findall(r"^### (toolkit_\w+)\((.*)\)$", PAGE, re.MULTILINE)
    assert entries == [(name, ", ".join(inspect.signature(spec).parameters)) for name, spec in SPECS.items()]


def test_no_other_hook_is_named() -> None:
    slips = {"toolkit_metric"}  # of the pen, shown with their error
    named = set(re.findall(r"(?:`|def |hook )(toolkit_[a-z_]+)[(`:]", PAGE))
    assert named - slips <= {*SPECS}


@pytest.mark.parametrize("hook", SPECS)
def test_a_hook_builds_where_its_spec_says_so(hook: str) -> None:
    spec, entry = inspect.getdoc(SPECS[hook]) or "", entry_of(hook)
    assert spec.startswith("Build") == entry.startswith("Build: ")
    for error in re.findall(r"`(\w+Error)`", spec.partition("@hookimpl")[0].partition("Errors:")[2]):
        assert f"`{error}`" in entry


def entry_of(hook: str) -> str:
    return re.split(r"^##", PAGE.partition(f"\n### {hook}(")[2], flags=re.MULTILINE)[0].partition("\n\n")[2]


def test_what_becomes_of_several_answers() -> None:
    table = PAGE.partition("\n## 4. ")[2].partition("\n## 5. ")[0]
    lines = re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    rows = [(re.findall(r"toolkit_\w+", hooks), what) for hooks, what in lines]
    [adding] = [hooks for hooks, what in rows if what.startswith("add up")]
    assert sorted(adding) == sorted(plugins._LISTS)
    apart = [hook for hooks, _ in rows for hook in hooks]
    assert [hook for hook in SPECS if "One plugin" in entry_of(hook)] == [
        hook for hook in SPECS if hook not in apart
    ]


def test_what_passes_is_what_it_is_made_of() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.partition("\n## 7. ")[2], re.MULTILINE))
    for kind in (types.Column, types.Loss, types.Stage, types.Scored):
        names = re.findall(r"`(\w+)`", rows[kind.__name__])
        assert names == [field.name for field in dataclasses.fields(kind)]
    assert set(re.findall(r"`(\w+)`", rows["Metric"])) == types.Metric.__abstractmethods__ | {
        "higher_is_better"
    }
    assert set(rows) | {"EvaluateMetric", "hookimpl"} <= set(toolkit.__all__)


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"\]\(([\w/.-]+)(?:#[\w-]+)?\)", PAGE):
        assert (ROOT / "docs" / name).exists(), name


# ---- the picture ---------------------------------------------------------------------------------------

ANSWERS = {"toolkit_row_length": "lambda row: float(len(row['ids']))", "toolkit_quantize": "lambda: {}"}
STOPS = """
    from toolkit import hookimpl

    @hookimpl
    def toolkit_callbacks():
        from transformers import TrainerCallback

        class Stops(TrainerCallback):
            def on_step_end(self, *args, **kwargs):
                raise ValueError("no more")

        return [Stops()]
"""


def picture() -> dict[str, dict[str, str]]:
    """The mark of each hook, by command: `●`, `○` or a blank."""
    [drawn] = [block.text for block in blocks(PAGE) if block.text.lstrip().startswith("run ")]
    head, *lines = drawn.splitlines()
    columns = {name: head.index(name) for name in ("run", "check", "eval", "predict", "export")}
    found: dict[str, dict[str, str]] = {name: {} for name in columns}
    for line in lines:
        if hook := re.match(r"   (toolkit_\w+)", line):
            for name, start in columns.items():
                found[name][hook[1]] = line[start : start + len(name)].strip()
    return found


def marked(command: str, marks: str) -> list[str]:
    return [hook for hook, mark in picture()[command].items() if mark and mark in marks]


@pytest.fixture
def recipe(install: Install, project: Project) -> Recipe:
    """Of the tiny plugin, of one that has every hook and answers none, and of one that stops runs."""
    silent = [
        f"@hookimpl\ndef {hook}():\n    return {ANSWERS.get(hook)}\n"
        for hook in SPECS
        if hook != "toolkit_model"
    ]
    modules = {
        "toolkit_tiny": tiny.PLUGIN,
        "toolkit_all": "\n".join(["from toolkit import hookimpl", *silent]),
    }
    modules["toolkit_stops"] = STOPS
    install(
        "toolkit-tiny",
        plugins={name: f"toolkit_{name}" for name in ("tiny", "all", "stops")},
        modules=modules,
    )
    project.write("rows.jsonl", [{"ids": row["ids"]} for row in tiny.rows(24)])
    train = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "report_to": "none"}
    recipe = Recipe("mine", plugins=["tiny", "all"], model="tiny", data="rows.jsonl", train=train)
    recipe.dump(project.folder / "mine.yaml")
    return recipe


def asked(project: Project, *command: str) -> list[str]:
    """The hooks that a command asks, in the order in which it first does."""
    return in_order(project.run(*command, "--trace-hooks").err)


def in_order(trace: str) -> list[str]:
    """Less what is asked beside `toolkit_check`, to learn whose the adapter is."""
    trace = re.sub(
        r"(?s)(hook toolkit_check: .*?)\nhook toolkit_adapt: .*?(?=\nhook toolkit_dataset: )", r"\1", trace
    )
    return list(dict.fromkeys(re.findall(r"^hook (\w+): ", trace, re.MULTILINE)))


def test_the_picture_names_every_hook_once_in_calling_order() -> None:
    [drawn] = [block.text for block in blocks(PAGE) if block.text.lstrip().startswith("run ")]
    assert re.findall(r"toolkit_\w+", drawn) == list(SPECS)


def test_the_picture_is_what_a_trace_shows(
    project: Project, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(project, "run", "mine.yaml", "--output-dir", "plain") == marked("run", "●")
    assert sorted(asked(project, "check", "mine.yaml")) == sorted(marked("check", "●"))
    assert asked(project, "eval", "plain") == marked("eval", "●")
    assert asked(project, "predict", "plain", "3 4") == marked("predict", "●")
    assert asked(project, "export", "plain", "--to", "copied") == marked("export", "●")

    changes = ["model={name: plain/model, quantization: {bits: 3}}", "adapter={r: 2, target_modules: [q_proj]}",
               "train.train_sampling_strategy=group_by_length"]  # fmt: skip
    more = [part for change in changes for part in ("--set", change)]
    run = asked(project, "run", "mine.yaml", *more, "--output-dir", "more")
    stopped = asked(project, "run", "mine.yaml", "--plugin", "stops", "--output-dir", "stopped")
    with contextlib.chdir(project.folder):
        model = toolkit.load_run("plain").model
        with trace_hooks():
            toolkit.run(recipe, "given", model=model)
    given = in_order(capsys.readouterr().err)
    for one in (run, stopped, given):
        assert one == [hook for hook in marked("run", "●○") if hook in one]
    assert {*run, *stopped, *given} == {*marked("run", "●○")}

    check = asked(project, "check", "mine.yaml", *more, "--dry-run")
    assert sorted(check) == sorted(marked("check", "●○"))
    for command in (
        ("eval", "more"),
        ("predict", "more", "3 4"),
        ("export", "more", "--merge", "--to", "merged"),
    ):
        assert asked(project, *command) == marked(command[0], "●○")
