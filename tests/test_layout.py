"""What is printed fits the terminal, at 80 columns and at 40, and nothing of it is lost."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from kerastl.backbones import backbone_names, get_backbone
from kerastl.cli import COMMANDS, EXAMPLES, cli
from kerastl.cli.backbones import details, overview
from kerastl.cli.evaluate import overview as evaluated
from kerastl.cli.rank import overview as ranked
from kerastl.cli.terminal import show
from kerastl.evaluation.metrics import evaluate_logits
from kerastl.jobs.plan import Plan, PlanRow
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.report.ranking import LeftOut, RankedBackbone, Ranking
from kerastl.report.search_report import TrialRecord
from kerastl.search.search_folder import SearchFolder, write_record
from kerastl.search.trial_log import TrialLog
from kerastl.wording import columns, wrapped

LONG = "a class with quite a long and winding name, of_which_no_word_may_be_left_out_at_any_width"
CHINESE = "写真" * 20
WIDTHS = pytest.mark.parametrize("width", [80, 40])


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda width: monkeypatch.setenv("COLUMNS", str(width))


def fits(text: str, width: int) -> bool:
    return max(cell_len(line) for line in text.splitlines()) <= width


def letters(text: str) -> str:
    return re.sub(r"\s", "", text)


def subcommands() -> list[list[str]]:
    root = click.Context(cli)
    inner = [
        [name, below]
        for name in ("models", "cache")
        for below in getattr(cli.get_command(root, name), "commands", {})
    ]
    assert len(inner) >= 7
    return [[], *([name] for name in COMMANDS), *inner]


@WIDTHS
@pytest.mark.parametrize("words", subcommands(), ids=" ".join)
def test_help_fits_the_terminal_and_cuts_no_description(
    words: list[str], width: int, wide: Callable[[int], None]
) -> None:
    wide(width)
    shown = CliRunner().invoke(cli, [*words, "--help"]).output
    assert fits(shown, width)
    assert not re.search(r"\.\.\.$", re.sub(r"(COMMAND|ARGS|EXAMPLE)\S*", "", shown), re.MULTILINE)
    command = cli
    for word in words:
        command = command.get_command(click.Context(cli), word)  # type: ignore[assignment, union-attr]
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(cli)):
            below = command.get_command(click.Context(cli), name)
            assert below is not None and letters(below.get_short_help_str(1000)) in letters(shown)


def test_the_first_help_shows_examples_as_lines(wide: Callable[[int], None]) -> None:
    wide(80)
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert "\\b" not in shown and "\b" not in shown
    for example, meaning in EXAMPLES:
        assert re.search(rf"^  {re.escape(example)}  +{meaning}$", shown, re.MULTILINE)


@pytest.mark.parametrize("width", [100, 80, 60, 40, 20])
@pytest.mark.parametrize("name", [LONG, CHINESE, "short", "x" * 90])
def test_a_table_fits_whatever_stands_in_it(name: str, width: int) -> None:
    rows = [(name, 1234, 0.5, "served, roll back of 3"), ("b", 5, 1.25, "")]
    shown = columns(("class", "images", "precision", "state"), rows, width)
    assert fits(shown, width)
    found = letters(shown)
    assert all(piece in found for piece in ("1,234", "0.5", "1.25"))
    if width <= 40:  # one below the other, so that names can be read off
        assert letters(name) in found


def test_a_table_that_has_room_is_one_line_a_row() -> None:
    assert columns(("name", "count"), [("a", 1234), ("long", 5)], 11) == (
        "name  count\na     1,234\nlong      5"
    )
    assert columns(("name", "long heading"), [("a", 1), ("b", 22)], 13) == (
        "name     long\n      heading\na           1\nb          22"
    )


def test_wrapped_lines_keep_their_indent_and_break_between_words() -> None:
    assert wrapped("  one two three four", 12) == ["  one two", "    three", "    four"]
    assert wrapped("one two three", 8, 0) == ["one two", "three"]
    assert wrapped("写真写真 写真", 5, 0) == ["写真", "写真", "写真"]


@WIDTHS
def test_listings_of_backbones_fit(
    width: int, wide: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    wide(width)
    specs = [get_backbone(name) for name in backbone_names()]
    show(overview(specs))
    for spec in specs:
        show(details(spec))
    shown = capsys.readouterr().out
    assert fits(shown, width)
    assert all(letters(spec.name) in letters(shown) and f"{spec.parameters:,}" in shown for spec in specs)


@WIDTHS
def test_an_evaluation_with_long_class_names_fits(
    width: int, wide: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    wide(width)
    logits = np.random.default_rng(0).normal(size=(30, 3))
    show(evaluated(evaluate_logits(logits, np.arange(30) % 3, [LONG, CHINESE, "cat"])))
    shown = capsys.readouterr().out
    assert fits(shown, width) and "cat" in shown and "winding" in shown


@WIDTHS
def test_a_ranking_fits(width: int, wide: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    wide(width)
    rows = tuple(
        RankedBackbone(name, 0.8531, 0.0213, 5, -1.2345, 0.01, 58_370_944, 331, 4032, 1234.5, "imagenet")
        for name in backbone_names()
    )
    left_out = tuple(LeftOut(name, "its weights are not on this machine") for name in backbone_names())
    show(ranked(Ranking(Path("runs"), 100, rows, left_out)))
    shown = capsys.readouterr().out
    assert fits(shown, width) and letters(shown).count("mobilenet_v3_large") == 2


class Listener(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines += message.splitlines()


@WIDTHS
def test_the_table_of_trials_fits(width: int, wide: Callable[[int], None], tmp_path: Path) -> None:
    wide(width)
    folder, listener = SearchFolder(tmp_path), Listener()
    values = {
        "finetune_phase.unfreeze_from": "block_13_expand_relu_of_a_long_name",
        "finetune_phase.learning_rate": 1.234e-4,
        "finetune_phase.layer_decay": 0.85,
        "head.dropout": 0.25,
        "head_phase.learning_rate": 0.001,
        "augment.level": "medium",
    }
    baseline = TrialRecord("baseline", {}, 1.0, "completed", 0.1234, seconds=3.0)
    with TrialLog(folder, "val_calibrated_loss", 120, None, listener) as table:
        table.start(baseline)
        for number, (status, score, reason) in enumerate(
            [
                ("completed", 0.4321, ""),
                ("failed", None, "the loss of the head phase is not finite " * 4),
                ("completed", 0.1, ""),
            ]
        ):
            record = TrialRecord(str(number), values, 1.0, status, score, seconds=1234.5, reason=reason)
            write_record(folder.of_trial(str(number)), record)
            table.ended(str(number))
    shown = "\n".join(listener.lines[1:])  # the first says what the recipe scored
    assert fits(shown, width)
    assert letters(shown).count("block_13_expand_relu_of_a_long_name") == 2
    worse, better = (next(line for line in listener.lines if score in line) for score in ("0.4321", "0.1000"))
    assert "*" not in worse and "*" in better, "no trial is the best that does worse than the recipe as it is"


@WIDTHS
def test_a_plan_fits(width: int) -> None:
    rows = tuple(
        PlanRow(
            phase, "block_13_expand_relu_of_a_quite_long_name", "partly", 123_456_789, 123_456_789, 1.2e-4
        )
        for phase in ("head_phase", "finetune_phase")
    )
    plan = Plan(dataclasses.replace(load_recipe(), name="n" * 50), {"train": 1000, "test": 10}, rows)
    assert fits(plan.text(width), width)


@WIDTHS
def test_the_list_of_models_fits_and_names_them_whole(
    width: int, wide: Callable[[int], None], tmp_path: Path
) -> None:
    wide(width)
    name = "a-quite-long-name-of-a-model-as-folders-of-photographs-have-them"
    for version in ("1", "12"):
        (tmp_path / name / version).mkdir(parents=True)
        (tmp_path / name / version / "saved_model.pb").touch()
    (tmp_path / name / "12" / "assets.extra").mkdir()
    facts = {"backbone": "efficientnet_v2_b0", "exported": "2026-01-02T03:04:05+00:00", "rollback_of": 1,
             "test": {"accuracy": 0.875, "count": 123456}}  # fmt: skip
    (tmp_path / name / "12" / "assets.extra" / "model.json").write_text(json.dumps(facts))
    shown = CliRunner().invoke(cli, ["models", "list", "--models", str(tmp_path)]).output
    assert fits(shown, width) and "123,456" in shown and "served" in shown
    if width == 40:
        assert letters(shown).count(name) == 2


def test_a_name_cannot_move_the_cursor() -> None:
    shown = columns(("image", "label"), [("a\x1b[2Jb\n.png", "c\rd")], 80)
    assert shown.splitlines()[1] == "a�[2Jb�.png  c�d"
