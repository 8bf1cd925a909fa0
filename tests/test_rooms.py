"""The house of docs/architecture.md holds: floors, sizes, names, and what may stand in one room only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kerastl"
FLOORS = {
    "__version__": 0,
    "errors": 1,
    "progress": 1,
    "wording": 1,
    "declare": 1,
    "pipeline": 1,
    "prediction": 2,
    "backbones": 2,
    "task": 2,
    "writing": 2,
    "markdown": 2,
    "locking": 3,
    "modality": 3,
    "presets": 3,
    "recipe": 4,
    "client": 4,
    "data": 5,
    "model": 5,
    "run": 5,
    "store": 5,
    "features": 6,
    "evaluation": 6,
    "export": 6,
    "report": 7,
    "training": 7,
    "jobs": 8,
    "search": 9,
    "cli": 10,
    "__main__": 11,
    "__init__": 11,
}
MOST_LINES = 320
HEAVY = (
    "tensorflow",
    "keras",
    "tensorflow_datasets",
    "tensorflow_serving",
    "grpc",
    "keras_tuner",
    "sklearn",
    "matplotlib",
)
LIGHT_ROOMS = (
    "errors",
    "progress",
    "wording",
    "declare",
    "prediction",
    "task",
    "client",
    "backbones",
    "presets",
    "recipe",
    "run",
    "writing",
    "locking",
    "pipeline",
    "data",
    "store",
    "cli",
    "__init__",
    "__main__",
)
# A modality decodes with TensorFlow; what a recipe, a listing or a client reads of it does not.
LIGHT_MODULES = (
    "modality/__init__.py",
    "modality/recipe.py",
    "modality/image/__init__.py",
    "modality/image/files.py",
    "modality/image/recipe_keys.py",
)

Violations = Iterator[str]


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def room_of(package: Path, module: Path) -> str:
    return module.relative_to(package).parts[0].removesuffix(".py")


def is_light(package: Path, module: Path) -> bool:
    return room_of(package, module) in LIGHT_ROOMS or module.relative_to(package).as_posix() in LIGHT_MODULES


def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported, also inside functions; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_violations(package: Path) -> Violations:
    """A room imports only from floors below its own, and never from its neighbours."""
    for module in modules(package):
        room = room_of(package, module)
        if room not in FLOORS:
            yield f"{module.relative_to(package)}: room {room} has no floor in this test"
            continue
        for name in imports_of(tree_of(module)):
            top, *rest = name.split(".")
            target = rest[0] if rest else "__init__"
            if top == package.name and target != room and FLOORS.get(target, 99) >= FLOORS[room]:
                yield f"{module.relative_to(package)} imports {name}"


def size_violations(package: Path) -> Violations:
    for module in modules(package):
        lines = len(module.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{module.relative_to(package)} has {lines} lines"


def heavy_imports(package: Path) -> Violations:
    """Modules of light rooms import TensorFlow and its like inside functions only."""
    for module in modules(package):
        if is_light(package, module):
            for node in top_level(tree_of(module)):
                for name in imports_of(node):
                    if name.split(".")[0] in HEAVY:
                        yield f"{module.relative_to(package)} imports {name} at module level"


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run at import; those for type checkers do not."""
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            yield node


def import_of(*names: str) -> Callable[[ast.Module], bool]:
    return lambda tree: any(found.split(".")[0] in names for found in imports_of(tree))


def writes_trainable(tree: ast.Module) -> bool:
    targets: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets.append(node.target)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            targets += [ast.Attribute(a, str(a.value)) for a in node.args if isinstance(a, ast.Constant)]
    return any(isinstance(target, ast.Attribute) and target.attr == "trainable" for target in targets)


def compiles_or_fits(tree: ast.Module) -> bool:
    """Calls a method `compile` or `fit`; `re.compile` is neither."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("compile", "fit", "train_on_batch")
        and ast.unparse(node.func.value) != "re"
        for node in ast.walk(tree)
    )


def prints_or_exits(tree: ast.Module) -> bool:
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return bool(calls & {"print", "exit", "quit", "sys.exit"}) or import_of("click")(tree)


def names_saved_models(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Constant) and node.value == "saved_models" for node in ast.walk(tree))


# what -> (how it is recognised, where alone it may stand)
ONLY = {
    "assigns .trainable": (writes_trainable, ("model/freezing.py",)),
    # the others fit models of scikit-learn: a forest and a Gaussian process to scores of trials, a linear probe to features
    "calls compile() or fit()": (
        compiles_or_fits,
        ("training/", "search/analysis.py", "search/bayesian.py", "evaluation/label_probe.py"),
    ),
    "imports tensorflow_datasets": (import_of("tensorflow_datasets"), ("data/",)),
    "imports keras_tuner": (import_of("keras_tuner"), ("search/",)),
    "imports httpx or grpc": (
        import_of("httpx", "requests", "grpc", "tensorflow_serving"),
        ("client/", "search/workers.py"),
    ),
    "imports matplotlib": (import_of("matplotlib"), ("report/plots", "report/search_plots")),
    "imports click, prints or exits": (
        prints_or_exits,
        ("cli/", "search/worker.py"),
    ),
    # the others only hold it as the default of an argument
    "names saved_models": (
        names_saved_models,
        ("export/", "jobs/", "jobs.py", "search/job.py", "cli/options.py"),
    ),
}


def only_violations(package: Path) -> Violations:
    for module in modules(package):
        place = module.relative_to(package).as_posix()
        for what, (recognise, places) in ONLY.items():
            if not place.startswith(places) and recognise(tree_of(module)):
                yield f"{place} {what}; only {', '.join(places)} may"


def name_violations(package: Path) -> Violations:
    """A command and its job share their name with each other, and with nothing else in their rooms."""
    seen: dict[str, str] = {}
    for module in modules(package):
        place = module.relative_to(package).as_posix()
        if not place.startswith(("cli/", "jobs/")) and not module.name.startswith("__"):
            if module.name in seen:
                yield f"{place} bears the name of {seen[module.name]}"
            seen[module.name] = place


def docstring_violations(package: Path) -> Violations:
    """A docstring says what a thing is or does."""
    for module in modules(package):
        for node in ast.walk(tree_of(module)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                words = (ast.get_docstring(node) or "").split(maxsplit=1)
                if words and words[0] in ("What", "Where", "How", "Whether", "Who"):
                    place = module.relative_to(package).as_posix()
                    yield f"{place}: the docstring of {getattr(node, 'name', 'the module')} begins with {words[0]}"


CHECKS = (
    floor_violations, size_violations, heavy_imports, only_violations, name_violations, docstring_violations
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_holds(check: Callable[[Path], Violations]) -> None:
    assert list(check(PACKAGE)) == []


@pytest.mark.parametrize(
    ("check", "place", "source"),
    [
        (floor_violations, "data/labels.py", "from kerastl.training import phase"),
        (floor_violations, "data/labels.py", "def f():\n    from kerastl.features.views import Views"),
        (floor_violations, "modality/draws.py", "from kerastl.recipe import Recipe"),
        (floor_violations, "data/labels.py", "from kerastl import jobs"),
        (floor_violations, "data/labels.py", "import kerastl"),
        (floor_violations, "recipe/load.py", "import kerastl.run"),
        (floor_violations, "attic/dust.py", ""),
        (size_violations, "data/labels.py", "x = 1\n" * 321),
        (heavy_imports, "cli/fit.py", "import tensorflow as tf"),
        (heavy_imports, "modality/image/recipe_keys.py", "import tensorflow as tf"),
        (heavy_imports, "recipe/load.py", "try:\n    from keras import ops\nexcept ImportError:\n    pass"),
        (only_violations, "model/build.py", "layer.trainable = False"),
        (only_violations, "model/build.py", "setattr(layer, 'trainable', False)"),
        (only_violations, "jobs.py", "model.fit(data)"),
        (only_violations, "evaluation/metrics.py", "model.compile()"),
        (only_violations, "jobs.py", "def f():\n    import tensorflow_datasets as tfds"),
        (only_violations, "jobs/fit.py", "import keras_tuner"),
        (floor_violations, "jobs/fit.py", "from kerastl.search import tune"),
        (only_violations, "report/page.py", "from matplotlib import pyplot"),
        (only_violations, "jobs/evaluate.py", "import httpx"),
        (heavy_imports, "client/rest.py", "from tensorflow_serving.apis import predict_pb2"),
        (only_violations, "training/phase.py", "print('epoch 1')"),
        (only_violations, "run.py", "import sys\nsys.exit(1)"),
        (only_violations, "run.py", "import click"),
        (only_violations, "run.py", "from pathlib import Path\nPath('saved_models').mkdir()"),
        (docstring_violations, "run.py", '"""What a run left behind."""'),
        (docstring_violations, "run.py", 'def f():\n    """Whether it ended."""'),
    ],
)
def test_a_crooked_wall_is_caught(
    tmp_path: Path, check: Callable[[Path], Violations], place: str, source: str
) -> None:
    module = tmp_path / "kerastl" / place
    module.parent.mkdir(parents=True)
    module.write_text(source)
    assert len(list(check(tmp_path / "kerastl"))) == 1


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("cli/fit.py", "from kerastl import __version__\nfrom kerastl.jobs.fit import fit\nfit()\nprint(1)"),
        ("jobs.py", "import re\nre.compile('x')\nfrom kerastl.training.phase import run_phase"),
        ("model/freezing.py", "layer.trainable = False\nlayer.trainable_variables"),
        ("cli/fit.py", "def f():\n    import tensorflow"),
        ("modality/image/decode.py", "import tensorflow as tf"),
        ("data/labels.py", "from kerastl.data import folder\nfrom kerastl.errors import DataError"),
    ],
)
def test_a_straight_wall_is_left_alone(tmp_path: Path, place: str, source: str) -> None:
    module = tmp_path / "kerastl" / place
    module.parent.mkdir(parents=True)
    module.write_text(source)
    assert [found for check in CHECKS for found in check(tmp_path / "kerastl")] == []


def test_two_modules_of_one_name_are_caught(tmp_path: Path) -> None:
    for place in ("cli/fit.py", "jobs/fit.py", "data/__init__.py", "store/__init__.py", "store/folder.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("")
    assert list(name_violations(tmp_path)) == []
    (tmp_path / "data" / "folder.py").write_text("")
    assert len(list(name_violations(tmp_path))) == 1


def test_light_modules_load_no_tensorflow() -> None:
    names = [
        ".".join(("kerastl", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for module in modules(PACKAGE)
        if is_light(PACKAGE, module) and module.name != "__main__.py"
    ]
    assert "kerastl.cli.fit" in names
    program = f"import sys, {', '.join(names)}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
