"""The command line: what it prints where, what it ends with, and that it starts without TensorFlow."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from conftest import Kerastl, heed_ctrl_c

from kerastl import __version__
from kerastl.backbones import backbone_names, get_backbone
from kerastl.cli import COMMANDS, cli, explain, main
from kerastl.cli.terminal import Terminal, print_json, table
from kerastl.errors import Interrupted, RecipeError, TrainingError, UserError
from kerastl.recipe import recipe_keys
from kerastl.recipe.flags import FLAGS

# Functions and classes of the API that need it when they are loaded.
LOADED_WITH_KERAS = {
    "FeatureArrays",
    "Fitted",
    "Net",
    "build",
    "evaluate",
    "export_run",
    "features",
    "finetune",
    "finish",
    "fit",
    "load",
    "plan",
    "predict",
    "run",
    "train_head",
    "unfreeze",
}
HEAVY = ("numpy", "tensorflow", "keras", "sklearn", "matplotlib", "scipy", "pandas", "keras_hub")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["backbones"],
        ["backbones", "resnet50"],
        ["datasets"],
        *([name, "--help"] for name in COMMANDS),
    ],
    ids=" ".join,
)
def test_help_and_listings_answer_without_tensorflow(words: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom kerastl.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "loaded: []\n")
    assert done.stdout


def leaves() -> dict[str, click.Command]:
    """All commands that do something, by their words."""
    context, found = click.Context(cli), {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        below = command.commands if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {inner}".strip(): each for inner, each in below.items()}
    return found


def options_of(command: click.Command) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts}


def test_every_command_prints_json() -> None:
    assert len(leaves()) >= 19
    assert [name for name, command in leaves().items() if "--json" not in options_of(command)] == []


def test_what_looks_ahead_takes_what_fit_takes() -> None:
    commands = leaves()
    for name in ("plan", "rank", "lr-range"):
        assert options_of(commands["fit"]) - options_of(commands[name]) == set()


COMPLETIONS = [
    ("fit --backbone", "mob", set(backbone_names()) & {"mobilenet_025", "mobilenet", "mobilenet_v2"}),
    ("fit --augment", "", {"none", "light", "medium", "strong"}),
    ("fit", "dig", {"digits"}),
    ("fit --data", "", {"digits", "definitions"}),
    ("plan --backbone vgg16 --unfreeze-from", "block", {"block1_pool", "block4_pool"}),
    ("fit --set", "augment.l", {"augment.level="}),
    ("tune --set", "augment.level=", {"augment.level=light"}),
    ("fit --weights", "im", {"imagenet"}),
    ("rank --backbones", "vgg16,vgg", {"vgg16,vgg19"}),
    ("backbones", "resnet50", {"resnet50", "resnet50_v2"}),
    ("export --format", "lite", {"litert", "litert-int8"}),
    ("evaluate", "", {"runs/20260102-030405-digits"}),
    ("export", "runs/2026", {"runs/20260102-030405-digits"}),
    ("predict", "run", {"runs/20260102-030405-digits"}),
    ("models rollback", "", {"digits"}),
    ("models prune --models elsewhere", "", {"flowers"}),
    ("tune --space", "", {"default", "head"}),
    ("", "mod", {"models"}),
]


@pytest.mark.parametrize(("words", "begun", "offered"), COMPLETIONS)
def test_the_shell_completes_names_choices_and_run_folders(
    words: str, begun: str, offered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (
        "runs/20260102-030405-digits",
        "runs/no-run",
        "saved_models/digits/1",
        "elsewhere/flowers/1",
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs" / "20260102-030405-digits" / "recipe.toml").touch()
    found = BashComplete(cli, {}, "kerastl", "_KERASTL_COMPLETE").get_completions(words.split(), begun)
    plain = {item.value for item in found if item.type == "plain"}
    assert offered and offered <= plain and all(value.startswith(begun) for value in plain)
    assert "runs/no-run" not in plain


def test_the_way_to_switch_completion_on_works_without_tensorflow(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for shell in ("bash", "zsh", "fish"):
        assert f"_KERASTL_COMPLETE={shell}_source kerastl" in page
    program = (
        "import sys\nfrom kerastl.cli import main\ntry:\n    main()\n"
        f"finally:\n    print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    environment = {
        **os.environ, "_KERASTL_COMPLETE": "bash_complete", "COMP_WORDS": "kerastl fit --backbone vgg", "COMP_CWORD": "3",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.stdout.split(), done.stderr) == (["file,vgg", "plain,vgg16", "plain,vgg19"], "loaded: []\n")


def test_version(kerastl: Kerastl) -> None:
    assert kerastl("--version").stdout == f"kerastl {__version__}\n"


def test_names_of_files_need_not_be_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit):
        main(["--version"])
    click.echo("caf\udce9.png")
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"caf\\udce9.png\n")  # type: ignore[attr-defined]


def test_every_flag_sets_a_key_and_shows_its_help(kerastl: Kerastl) -> None:
    keys = {name: item.metadata["help"] for name, item, _ in recipe_keys()}
    for command in ("fit", "plan"):
        shown = " ".join(kerastl(command, "--help").stdout.split())
        for flag, key in FLAGS.items():
            assert flag in shown
            assert f"{keys[key]} [{key}]" in shown


@pytest.mark.parametrize("words", [["--debug", "backbones", "x"], ["backbones", "x", "--debug"]])
def test_debug_shows_the_traceback(kerastl: Kerastl, words: list[str]) -> None:
    done = kerastl(*words)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "Unknown backbone 'x'" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "fragment"),
    [
        (UserError("mend it"), 2, "error: mend it\n"),
        (
            RecipeError(["a = 1: no", "b = 2: no"], "r.toml"),
            2,
            "r.toml: 2 problems\n  - a = 1: no\n  - b = 2: no",
        ),
        (TrainingError("diverged"), 1, "error: diverged\n"),
        (Interrupted("stopped, go on so"), 130, "stopped, go on so"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (click.Abort(), 130, "stopped by Ctrl-C"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            2,
            "No space left on the device for runs/x",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 2, "error: runs: Permission denied."),
        (MemoryError(), 1, "Lower finetune_phase.batch_size"),
        (ZeroDivisionError("division by zero\nmore"), 1, "ZeroDivisionError: division by zero\n"),
        (ValueError(), 1, "run again with --debug"),
    ],
)
def test_every_failure_is_one_message_and_an_exit_code(
    error: BaseException, code: int, fragment: str
) -> None:
    found, message = explain(error)
    assert found == code
    assert fragment in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [("SIGINT", 130, "stopped by Ctrl-C"), ("SIGTERM", 143, "stopped by SIGTERM")],
)
def test_a_signal_to_stop_ends_with_its_code_and_no_traceback(
    sent: str, code: int, said: str, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys, click\nimport kerastl.cli as cli\n"
        "@click.command()\ndef wait():\n    os.kill(os.getpid(), signal."
        + sent
        + ")\n    import time; time.sleep(9)\n"
        "cli.Commands.get_command = lambda self, context, name: wait\n"
        "cli.main(['fit'])"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, preexec_fn=heed_ctrl_c)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.strip() == said


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    command = f"{sys.executable} -m kerastl backbones --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[", "")


def test_backbones_lists_all_and_tells_about_one(kerastl: Kerastl) -> None:
    lines = kerastl("backbones").stdout.splitlines()
    end = lines.index("")
    assert [line.split()[0] for line in lines[1:end]] == list(backbone_names(None))
    assert "kerashub:" in " ".join(lines[end:])
    one = kerastl("backbones", "vgg16").stdout
    for point in get_backbone("vgg16").unfreeze_points:
        assert f"  {point}\n" in one
    every = json.loads(kerastl("backbones", "--json").stdout)
    assert every[0]["unfreeze_points"] == list(get_backbone(every[0]["name"]).unfreeze_points)
    assert json.loads(kerastl("backbones", "vgg16", "--json").stdout)["name"] == "vgg16"


def test_datasets_names_what_data_takes(kerastl: Kerastl, tmp_path: Path) -> None:
    shown = kerastl("datasets", "--data-dir", tmp_path).stdout
    assert "digits" in shown
    names = [
        line["name"] for line in json.loads(kerastl("datasets", "--json", "--data-dir", tmp_path).stdout)
    ]
    assert "digits" in names


def test_tensorflow_is_loaded_without_a_line_on_the_terminal(tmp_path: Path) -> None:
    program = (
        "from kerastl.cli.terminal import quiet_tensorflow\nquiet_tensorflow()\nimport sys, tensorflow, os\n"
        "tensorflow.random.normal((2, 2)) @ tensorflow.ones((2, 2))\n"
        "os.write(2, b'still heard\\n')\nprint('python', file=sys.stderr)\n"
        "import io, numpy\nfrom PIL import Image\nscan = io.BytesIO()\n"
        "Image.fromarray(numpy.zeros((9000, 10000), bool)).save(scan, 'TIFF', compression='group4')\nImage.open(scan)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "still heard\npython\n")


def test_a_failing_import_of_tensorflow_is_shown(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'the reason\\n')\nraise ImportError('broken')"
    )
    program = "from kerastl.cli.terminal import quiet_tensorflow\nquiet_tensorflow()"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "the reason\n" in done.stderr
    assert "ImportError: broken" in done.stderr


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(terminal: Terminal, clock: Clock, seconds: float, steps: int = 100) -> None:
    with terminal.track("decode", steps * 10, "images") as tracker:
        for _ in range(steps):
            clock.now += seconds / steps
            tracker.advance(10, "loss 0.5")


def test_a_bar_on_a_terminal_stays_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    clock, stream = Clock(), TerminalStream()
    work(Terminal(stream=stream, clock=clock), clock, seconds=20)
    frames = stream.getvalue().split("\r")
    bars = [frame for frame in frames if "%" in frame]
    assert len(bars) > 50
    assert max(len(frame.rstrip("\n")) for frame in frames) < 80
    assert "50 images/s" in bars[-1]
    assert "100%" in bars[-1]
    assert "loss 0.5" in bars[-1]
    halfway = next(bar for bar in bars if " 50%" in bar)
    assert "10 s left" in halfway
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("decode: 1,000 images, 20 s, 50 images/s, loss 0.5\n")


def test_a_narrow_terminal_cuts_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    clock, stream = Clock(), TerminalStream()
    work(Terminal(stream=stream, clock=clock), clock, seconds=20)
    assert max(len(frame) for frame in stream.getvalue().split("\r")[:-1]) < 30
    assert stream.getvalue().endswith("\rdecode: 20 s, 50 images/s, loss 0.5\n"), (
        "without the number of images"
    )


def test_a_file_gets_a_line_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    work(Terminal(stream=stream, clock=clock), clock, seconds=60)
    lines = stream.getvalue().splitlines()
    assert 5 <= len(lines) <= 7
    assert "\r" not in stream.getvalue()
    assert "images/s" in lines[0] and "left" in lines[0]


@pytest.mark.parametrize("stream", [io.StringIO(), TerminalStream()], ids=["file", "terminal"])
def test_short_work_shows_nothing(stream: io.StringIO) -> None:
    clock = Clock()
    work(Terminal(stream=stream, clock=clock), clock, seconds=0.5)
    assert stream.getvalue() == ""


def test_a_message_makes_the_bar_step_aside() -> None:
    clock, stream = Clock(), TerminalStream()
    terminal = Terminal(stream=stream, clock=clock)
    with terminal.track("decode", 10, "images") as tracker:
        clock.now += 5
        tracker.advance(5)
        terminal.warn("a.jpg cannot be read")
    assert "\rwarning: a.jpg cannot be read\n" in stream.getvalue()


def test_work_that_breaks_off_leaves_a_clean_line() -> None:
    clock, stream = Clock(), TerminalStream()
    terminal = Terminal(stream=stream, clock=clock)
    with pytest.raises(RuntimeError), terminal.track("decode", 10, "images") as tracker:
        clock.now += 5
        tracker.advance(5)
        raise RuntimeError
    assert stream.getvalue().endswith("decode: 5 images, 5.0 s, 1.0 images/s\n")


def test_quiet_still_warns() -> None:
    clock, stream = Clock(), io.StringIO()
    terminal = Terminal(quiet=True, stream=stream, clock=clock)
    terminal.note("a note")
    work(terminal, clock, seconds=60)
    terminal.warn("a warning")
    assert stream.getvalue() == "warning: a warning\n"


def test_more_work_than_announced_does_not_break_the_bar() -> None:
    clock, stream = Clock(), TerminalStream()
    with Terminal(stream=stream, clock=clock).track("decode", 0, "images") as tracker:
        clock.now += 5
        tracker.advance(3)
    assert "decode: 3 images" in stream.getvalue()


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table(("name", "count"), [("a", 1234), ("long", 5)]) == "name  count\na     1,234\nlong      5"
    assert table(("name", "count"), []) == "name  count"


def test_json_holds_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    print_json(
        {
            "path": Path("a/b"),
            "nan": float("nan"),
            "inf": float("-inf"),
            "row": np.arange(2),
            "one": np.float32(0.5),
            "t": (1,),
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "path": "a/b", "nan": None, "inf": None, "row": [0, 1], "one": 0.5, "t": [1],
    }  # fmt: skip


def test_the_package_loads_its_functions_when_they_are_used() -> None:
    program = (
        "import sys, kerastl\n"
        f"assert not set({HEAVY!r}) & set(sys.modules)\n"
        "assert 'kerastl.recipe' not in sys.modules\n"
        "assert kerastl.load_recipe().seed == 0\n"
        "assert set(kerastl.__all__) == set(dir(kerastl))\n"
        "assert not hasattr(kerastl, 'nonsense')\n"
        "import kerastl.data, kerastl.jobs\n"
        f"for name in set(kerastl.__all__) - {LOADED_WITH_KERAS!r}:\n"
        "    assert not isinstance(getattr(kerastl, name), type(sys)), name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
