"""What can be asked and what is said: help, plan, recipes and messages."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerastl
from net.conftest import RECIPE, THAWED
from net.jobs import plan_text
from net.worker import SharedResults, Worker

COMMANDS = [
    "fit", "tune", "plan", "rank", "lr-range", "evaluate", "predict", "export", "benchmark", "backbones", "datasets", "models",
    "cache", "check",
]  # fmt: skip
PUBLIC = [
    "BackboneSpec", "FeatureArrays", "Fitted", "KerastlError", "Net", "Progress", "Recipe", "Tracker", "UserError", "__version__", "backbone_names", "benchmark",
    "build", "check", "convert", "datasets", "evaluate", "export_run", "features", "finetune", "finish", "fit", "from_arrays", "from_dataset", "from_folder", "from_frame",
    "from_texts", "from_tfds", "get_backbone", "load", "load_recipe", "lr_range", "plan", "predict", "rank", "recipe_from_dict", "recipe_to_toml", "resolve", "run", "shipped_recipes", "train_head", "tune", "unfreeze",
]  # fmt: skip
PLAN = Path(__file__).with_name("plan.txt")


def test_help_lists_every_command_and_each_says_what_it_takes(worker: Worker, tmp_path: Path) -> None:
    first = worker.run("--help", folder=tmp_path)
    listed = re.findall(r"^  ([a-z-]+)  ", first.out.split("Commands:")[1], re.MULTILINE)
    assert first.code == 0 and listed[: len(COMMANDS)] == COMMANDS
    for name in COMMANDS:
        answer = worker.run(name, "--help", folder=tmp_path)
        assert answer.code == 0 and answer.err == "" and answer.out.startswith(f"Usage: kerastl {name} ")
        assert "--json" in answer.out or "Commands:" in answer.out
    assert worker.run("--version", folder=tmp_path).out == f"kerastl {kerastl.__version__}\n"


FLAGS = {
    "fit": "--data --data-dir --examples-per-class --backbone --weights --weights-dir --image-size --head-epochs --unfreeze-from "
    "--finetune-epochs --augment --cache --name --seed --precision --deterministic --no-finetune --set --runs --models "
    "--no-export --keep --warmup --no-warmup --tensorboard --json --quiet --debug",
    "tune": "--data --backbone --set --space --tuner --trials --budget --repeats --folds --workers --directory --no-export --json",
    "plan": "--data --backbone --set --json",
    "rank": "--data --set --backbones --runs --json",
    "lr-range": "--data --set --phase --low --high --steps --runs --json",
    "evaluate": "--data --json --csv --quiet",
    "predict": "--url --top --timeout --header --ca-file --json --csv --quiet",
    "export": "--format --models --exported --name --keep --warmup --no-warmup --json",
    "benchmark": "--data --format --json",
    "models list": "--models --json",
    "models rollback": "--to --models --json",
    "models prune": "--keep --models --json",
    "models config": "--models --json",
    "cache list": "--directory --json",
    "cache prune": "--directory --max-gigabytes --older-than-days --json",
    "cache clear": "--directory --json",
}


@pytest.mark.parametrize("command", FLAGS)
def test_a_flag_that_was_there_is_still_there(command: str, worker: Worker, tmp_path: Path) -> None:
    shown = worker.run(*command.split(), "--help", folder=tmp_path).out
    assert set(FLAGS[command].split()) <= set(re.findall(r"--[a-z-]+", shown))


def test_help_needs_no_tensorflow(tmp_path: Path) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "kerastl"]
    loaded = [
        subprocess.run([*words, *more], cwd=tmp_path, capture_output=True, text=True).stderr
        for more in (["--help"], ["fit", "--help"], ["backbones"])
    ]
    assert all(
        " click" in each and not re.search(r"\| +(tensorflow|keras)$", each, re.MULTILINE) for each in loaded
    )


def test_the_public_names_are_there(worker: Worker) -> None:
    assert set(PUBLIC) <= set(kerastl.__all__) == set(dir(kerastl))
    assert worker.call(missing, PUBLIC) == []
    assert issubclass(kerastl.UserError, kerastl.KerastlError) and not hasattr(kerastl, "nonsense")


def missing(names: list[str]) -> list[str]:
    """Those of some names that the package lacks, or that are modules which cannot be called."""
    found = {name: getattr(kerastl, name, ast) for name in names}
    return [name for name, each in found.items() if isinstance(each, type(ast)) and not callable(each)]


def test_the_plan_says_which_block_trains_in_which_phase_at_which_rate(
    worker: Worker, tmp_path: Path
) -> None:
    answer = worker.run("plan", *RECIPE, *THAWED, "--name", "digits", folder=tmp_path)
    assert answer.code == 0 and answer.out == PLAN.read_text()
    assert list(tmp_path.iterdir()) == [], "no folder is made"
    other = worker.run("plan", *RECIPE, "--no-finetune", "--name", "digits", folder=tmp_path)
    assert other.out != answer.out and "fine-tune phase" not in other.out


def test_python_plans_the_same(worker: Worker) -> None:
    flags = {
        "data.source": "digits", "data.examples_per_class": 16, "backbone.image_size": 32, "head_phase.epochs": 6,
        "augment.level": "light", "augment.views": 3, "data.test_fraction": 0.1, "deterministic": True, "name": "digits",
        "finetune_phase.unfreeze_from": "conv_pw_11_relu", "finetune_phase.epochs": 4,
        "finetune_phase.learning_rate": 3e-4,
    }  # fmt: skip
    assert worker.call(plan_text, flags, 80) + "\n" == PLAN.read_text()


def test_recipes_survive_the_way_through_a_file(tmp_path: Path) -> None:
    flags = {
        "data.source": "photos",
        "backbone.name": "vgg16",
        "head.hidden": [64, 32],
        "seed": 7,
        "augment.level": "strong",
    }
    asked = kerastl.load_recipe(flags=flags)
    for recipe in (asked, kerastl.load_recipe("digits"), kerastl.resolve(asked, 1000, 10)):
        text = kerastl.recipe_to_toml(recipe)
        (tmp_path / "recipe.toml").write_text(text)
        again = kerastl.load_recipe(tmp_path / "recipe.toml")
        assert (
            again == kerastl.recipe_from_dict(tomllib.loads(text)) and kerastl.recipe_to_toml(again) == text
        )
    assert asked == kerastl.recipe_from_dict(tomllib.loads(kerastl.recipe_to_toml(asked)))
    other = kerastl.load_recipe(tmp_path / "recipe.toml", ["seed=8"])
    assert other != again and other.seed == 8, "the control: another recipe is not equal"


def test_a_flag_wins_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("seed = 1\n[head]\ndropout = 0.1\n[head_phase]\nepochs = 11\n")
    recipe = kerastl.load_recipe(tmp_path / "recipe.toml", ["seed=2", "head.dropout=0.2"], {"seed": 3})
    assert (recipe.seed, recipe.head.dropout, recipe.head_phase.epochs) == (3, 0.2, 11)


def test_the_rule_fills_what_was_left_out_and_nothing_else() -> None:
    asked = kerastl.load_recipe(
        flags={"data.source": "photos", "backbone.name": "resnet50", "head_phase.learning_rate": 0.123}
    )
    assert asked.finetune_phase.unfreeze_from is None and asked.head_phase.epochs is None
    chosen = kerastl.resolve(asked, 2000, 10)
    assert chosen.head_phase.learning_rate == 0.123 and chosen.backbone.image_size == 224
    assert chosen.finetune_phase.unfreeze_from in kerastl.get_backbone("resnet50").unfreeze_points
    assert "None" not in kerastl.recipe_to_toml(chosen) and chosen.head_phase.epochs


WRONG: list[tuple[list[str], int, list[str]]] = [
    (["ft"], 2, ["Unknown command 'ft'", "Did you mean 'fit'?", "Try 'kerastl --help'"]),
    (["fit", "--bakbone", "vgg16"], 2, ["--bakbone", "Did you mean", "--backbone", "Try 'kerastl fit --help'"]),
    (["fit", "--set", "sed=1"], 2, ["Unknown key 'sed'", "Did you mean 'seed'?"]),
    (["fit", "--image-size", "big", "--seed", "-1"], 2, ["backbone.image_size = 'big'", "seed = -1", "2 problems"]),
    (["fit", "--backbone", "resnet5O"], 2, ["Did you mean 'resnet50'?"]),
    (["fit", "--no-finetune", "--unfreeze-from", "input"], 2, ["--no-finetune", "--unfreeze-from"]),
    (["fit", "--augment", "huge"], 2, ["augment.level = 'huge'", "strong"]),
    (["fit", "--set", "head.dropout=1.5"], 2, ["head.dropout = 1.5"]),
    (["plan", "nowhere.toml"], 2, ["No recipe 'nowhere.toml'"]),
    (["plan", "digts"], 2, ["digts", "Did you mean 'digits'?"]),
    (["plan", "broken.toml"], 2, ["broken.toml"]),
    (["backbones", "resnet5O"], 2, ["Unknown backbone 'resnet5O'", "Did you mean 'resnet50'?"]),
    (["tune", "--space", "nowhere.toml", "--data", "digits"], 2, ["nowhere.toml"]),
    (["tune", "--budget", "soon", "--data", "digits"], 2, ["soon", "30m"]),
    (["predict", "model"], 2, ["EXAMPLE"]),
    (["predict", "model", "x.png", "--top", "0"], 2, ["--top", "0"]),
    (["predict", "no-model", "colours"], 2, ["no-model"]),
    (["evaluate", "no-run"], 2, ["no-run"]),
    (["export", "colours"], 2, ["colours"]),
    (["export", "no-run", "--format", "onix"], 2, ["onix", "onnx"]),
    (["models", "prune", "nothing", "--keep", "1"], 2, ["nothing"]),
    (["cache", "prune", "--max-gigabytes", "-1"], 2, ["--max-gigabytes", "not in the range x>=0"]),
    (["cache", "prune", "--older-than-days", "nan"], 2, ["--older-than-days", "nan is not a number"]),
    (["rank", "--backbones", "vgg61", "--data", "digits"], 2, ["vgg61", "vgg"]),
    (["lr-range", "--low", "1", "--high", "0.1", "--data", "digits"], 2, ["0.1"]),
    (["FIT", "--data", "nowhere"], 2, ["does not exist"]),
    (["FIT", "--data", "empty"], 2, ["empty"]),
    (["FIT", "--data", "one-class"], 2, ["class"]),
    (["FIT", "--data", "broken.csv"], 2, ["broken.csv"]),
    (["FIT", "--data", "colours", "--backbone", "resnet5O"], 2, ["Did you mean 'resnet50'"]),
    (["FIT", "--data", "colours", "--unfreeze-from", "conv_pw_11"], 2, ["Did you mean 'conv_pw_11_relu'"]),
    (["FIT", "--data", "colours", "--image-size", "16"], 2, ["at least 32 pixels"]),
    (["FIT", "--data", "colours", "--weights", "wrong.weights.h5"], 2, ["wrong.weights.h5"]),
    (["FIT", "--data", "colours", "--weights", "nowhere.weights.h5"], 2, ["nowhere.weights.h5"]),
    (["FIT", "--data", "colours", "--set", "head.droput=0.1"], 2, ["Did you mean 'head.dropout'"]),
    (["FIT", "--data", "colours", "--runs", "a-file"], 2, ["a-file"]),
    (["fit", "RECIPE", "--set", "head_phase.learning_rate=1e18", "--set", "head_phase.gradient_clip_norm=0"],
     1, ["Lower head_phase.learning_rate"]),
]  # fmt: skip


@pytest.fixture(scope="session")
def bad_inputs(results: SharedResults, solid_colours: Path) -> Path:
    """A folder with good images and several things that are wrong."""

    def make(folder: Path) -> Path:
        shutil.copytree(solid_colours, folder / "colours")
        shutil.copytree(solid_colours / "red", folder / "one-class" / "red")
        (folder / "empty").mkdir()
        np.savez(folder / "wrong.npz", a=np.zeros(3))
        (folder / "wrong.npz").rename(folder / "wrong.weights.h5")
        (folder / "a-file").write_text("in the way")
        (folder / "broken.toml").write_text("[head\ndropout = 0.1")
        (folder / "broken.csv").write_text("file,class\na.png,x\n")
        return folder

    return results.made("bad_inputs", make)


@pytest.mark.parametrize(("words", "code", "fragments"), WRONG, ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value))  # fmt: skip
def test_what_is_wrong_gets_one_message_and_an_exit_code(
    words: list[str], code: int, fragments: list[str], bad_inputs: Path, worker: Worker, recipe: list[str]
) -> None:
    small = ["--image-size", "32"] if "--image-size" not in words else []
    small += ["--backbone", "mobilenet_025"] if "--backbone" not in words else []
    stand_for = {"FIT": ["fit", *small], "RECIPE": recipe}
    words = [each for word in words for each in stand_for.get(word, [word])]
    before = {path.name for path in bad_inputs.iterdir()}
    answer = worker.run(*words, folder=bad_inputs)
    assert answer.code == code, answer.err
    assert answer.out == "" and "Traceback" not in answer.err
    for fragment in fragments:
        assert fragment in answer.err
    assert len(re.findall("^error: ", answer.err, re.MULTILINE)) == 1
    assert answer.err.startswith("error: ") or words[0] == "fit"
    assert {path.name for path in bad_inputs.iterdir()} - before <= ({"runs"} if words[0] == "fit" else set())
    assert not list(bad_inputs.glob("runs/*/model.keras"))


def test_python_raises_what_the_command_line_prints(bad_inputs: Path) -> None:
    with pytest.raises(kerastl.UserError, match="Unknown key 'sed'"):
        kerastl.recipe_from_dict({"sed": 1})
    with pytest.raises(kerastl.UserError, match="Did you mean 'resnet50'"):
        kerastl.get_backbone("resnet5O")
    with pytest.raises(kerastl.UserError, match=r"nowhere\.toml"):
        kerastl.load_recipe(bad_inputs / "nowhere.toml")
    assert kerastl.load_recipe("digits").name == "digits", "the control: a good one is read"


def test_a_plan_in_json_holds_what_the_text_says(worker: Worker, tmp_path: Path) -> None:
    result: dict[str, Any] = worker.run(
        "plan", *RECIPE, *THAWED, "--name", "digits", "--json", folder=tmp_path
    ).json
    assert result["recipe"]["backbone"]["name"] == "mobilenet_025" and sum(result["counts"].values()) > 300
    for row in result["rows"]:
        assert f"{row['block']} " in PLAN.read_text() and f"{row['parameters']:,}" in PLAN.read_text()
    assert json.dumps(result).count("head_phase") > 1


def test_good_pictures_are_the_control_of_the_table_above(bad_inputs: Path, worker: Worker) -> None:
    answer = worker.run("plan", "--data", "colours", "--backbone", "mobilenet_025", folder=bad_inputs)
    assert answer.code == 0 and "error" not in answer.err
