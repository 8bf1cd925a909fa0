"""Publishing: a writer may die at any step, go back, or meet others, and servers see whole versions only."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Kerastl
from kill_at_every_step import NAME, SCENARIOS, broken_versions, build, grow_old, publish_next, versions

from kerastl.errors import UserError
from kerastl.export.folders import published_versions, remove_leftovers, workspace
from kerastl.export.models_config import models_config, not_listed, write_models_config
from kerastl.export.versions import list_models, prune_versions, roll_back

ROOT = Path(__file__).parents[1]


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """In memory where the system offers it: on some disks removing a folder takes milliseconds."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def kill_at_every_step(folder: Path, scenario: str) -> dict:
    command = [sys.executable, str(Path(__file__).with_name("kill_at_every_step.py")), str(folder), scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"unsafe"}))
def test_a_kill_at_any_step_leaves_whole_versions_and_the_next_writer_tidies_up(
    scenario: str, quick_folder: Path
) -> None:
    found = kill_at_every_step(quick_folder, scenario)
    assert found["problems"] == []
    assert found["steps"] > 50


def test_a_writer_that_builds_in_place_is_caught(quick_folder: Path) -> None:
    found = kill_at_every_step(quick_folder, "unsafe")
    assert len([problem for problem in found["problems"] if "No such file" in problem]) > 10


def test_writers_that_publish_prune_and_go_back_at_once_never_break_a_version(tmp_path: Path) -> None:
    program = """if True:
        import sys
        from pathlib import Path
        from kill_at_every_step import NAME, publish_next
        from kerastl.errors import UserError
        from kerastl.export.versions import roll_back
        for i in range(12):
            if sys.argv[2] == "back" and i % 2:
                try:
                    print(roll_back(sys.argv[1], NAME).version)
                except UserError as error:  # all older ones are gone already, or go while they are read
                    assert "is served" in str(error) or "was removed" in str(error), error
            else:
                print(publish_next(Path(sys.argv[1]), keep=None if sys.argv[2] == "back" else 3))
    """
    publish_next(tmp_path)
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), kind], cwd=Path(__file__).parent,
                         stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        for kind in ("publish", "publish", "back", "back")
    ]  # fmt: skip
    while any(writer.poll() is None for writer in writers):
        newest = tmp_path / NAME / str(published_versions(tmp_path / NAME)[-1])
        assert (newest / "sums.json").is_file() or not newest.exists()
    assert [writer.returncode for writer in writers] == [0] * 4
    numbers = [int(word) for writer in writers for word in writer.stdout.read().split()]
    assert sorted(numbers) == list(range(2, len(numbers) + 2))
    assert broken_versions(tmp_path / NAME) == []
    assert [child.name for child in (tmp_path / NAME).iterdir() if not child.name.isdigit()] == []


def test_the_workspace_of_a_living_writer_stays_however_old_it_looks(tmp_path: Path) -> None:
    base = tmp_path / NAME
    with workspace(base) as temporary:
        build(temporary)
        grow_old(base)
        remove_leftovers(base)
        assert (temporary / "sums.json").is_file()
    assert not base.exists()
    build(base / ".tmp-1-dead" / "version")
    remove_leftovers(base)
    assert (base / ".tmp-1-dead").exists()  # just made: perhaps its lock comes in a moment
    grow_old(base)
    remove_leftovers(base)
    assert list(base.iterdir()) == []


def test_keep_leaves_the_newest(tmp_path: Path) -> None:
    versions(4)(tmp_path)
    assert publish_next(tmp_path, keep=2) == 5
    assert published_versions(tmp_path / NAME) == [4, 5]
    with pytest.raises(UserError, match="keep = 0: expected at least 1"):
        publish_next(tmp_path, keep=0)
    assert published_versions(tmp_path / NAME) == [4, 5]


def test_what_is_served_after_going_back_and_its_origin_are_never_removed(tmp_path: Path) -> None:
    versions(4)(tmp_path)
    assert roll_back(tmp_path, NAME, 2).version == 5
    assert prune_versions(tmp_path / NAME, 1) == [1, 3, 4]
    assert published_versions(tmp_path / NAME) == [2, 5]
    assert publish_next(tmp_path) == 6
    assert prune_versions(tmp_path / NAME, 1) == [2, 5]


def test_going_back_repeats_the_files_and_says_so(tmp_path: Path) -> None:
    versions(3)(tmp_path)
    one = tmp_path / NAME / "1"
    (one / "assets.extra" / "model_card.md").write_text("# m\n\ntext\n")
    (one / "assets.extra" / "model.json").write_text('{"backbone": "vgg16"}')
    version = roll_back(tmp_path, NAME, 1)
    assert (version.version, version.rollback_of, version.served) == (4, 1, True)
    assert version.backbone == "vgg16"
    assert (version.path / "saved_model.pb").read_bytes() == (one / "saved_model.pb").read_bytes()
    card = (version.path / "assets.extra" / "model_card.md").read_text()
    assert (
        card.startswith("# m\n\n> **Rolled back:** these are the files of version 1,") and "\ntext\n" in card
    )
    # they share their bytes on the disk, so what differs must be other files
    assert (one / "assets.extra" / "model_card.md").read_text() == "# m\n\ntext\n"
    assert (one / "assets.extra" / "model.json").read_text() == '{"backbone": "vgg16"}'
    # the copy can be repeated itself, and the first origin is what counts
    publish_next(tmp_path)
    again = roll_back(tmp_path, NAME, 4)
    assert again.rollback_of == 1
    assert (again.path / "assets.extra" / "model_card.md").read_text().count("Rolled back") == 1


def test_going_back_step_by_step_and_forward_again(tmp_path: Path) -> None:
    versions(3)(tmp_path)
    assert [roll_back(tmp_path, NAME).rollback_of for _ in range(2)] == [2, 1]
    with pytest.raises(UserError, match="no version of model 'm' before 1"):
        roll_back(tmp_path, NAME)
    assert roll_back(tmp_path, NAME, 3).rollback_of == 3
    with pytest.raises(UserError, match="is what is served already, as version 6"):
        roll_back(tmp_path, NAME, 3)
    with pytest.raises(UserError, match=r"no version 9. Expected one of: 1, 2, 3, 4, 5, 6"):
        roll_back(tmp_path, NAME, 9)
    with pytest.raises(UserError, match=r"no model 'n' in .*Expected one of: m"):
        roll_back(tmp_path, "n")


def test_after_bad_releases_on_both_sides_of_a_roll_back_neither_is_served_again(
    kerastl: Kerastl, tmp_path: Path
) -> None:
    models = tmp_path / "saved_models"
    versions(3)(models)
    assert roll_back(models, NAME).rollback_of == 2  # 3 was bad
    publish_next(models)
    assert roll_back(models, NAME).rollback_of == 2  # 5 is bad, too
    notes = [line.split()[-1] for line in kerastl("models", "list").stdout.splitlines()[1:]]
    assert [number for number, note in enumerate(notes, start=1) if note == "withdrawn"] == [3, 5]
    assert roll_back(models, NAME).rollback_of == 1
    publish_next(models)
    assert roll_back(models, NAME, 5).content == 5  # by name, and good again from now on
    publish_next(models)
    assert roll_back(models, NAME).content == 5
    assert roll_back(models, NAME).content == 1
    with pytest.raises(UserError, match="before 1, which is served"):
        roll_back(models, NAME)


def test_where_all_that_came_before_was_withdrawn_it_has_to_be_named(tmp_path: Path) -> None:
    versions(2)(tmp_path)
    roll_back(tmp_path, NAME)  # 2 was bad
    publish_next(tmp_path)
    for number in ("1", "3"):  # what was good is broken by hand
        (tmp_path / NAME / number / "saved_model.pb").unlink()
    with pytest.raises(
        UserError, match=r"but what was withdrawn \(2\)\. Versions: 2, 4\. Name one with --to"
    ):
        roll_back(tmp_path, NAME)
    assert roll_back(tmp_path, NAME, 2).rollback_of == 2


def test_a_broken_newest_version_is_gone_back_from_to_the_one_that_servers_still_serve(
    tmp_path: Path,
) -> None:
    versions(2)(tmp_path)
    (tmp_path / NAME / "3").mkdir()  # by hand, without a SavedModel: servers fail to load it and keep 2
    assert roll_back(tmp_path, NAME).rollback_of == 2


@pytest.mark.parametrize("facts", ['{"rollback_of": 9}', '{"rollback_of": "1"}', '{"rollback_of": [1]}'])
def test_a_description_that_came_with_files_from_elsewhere_names_no_origin(
    tmp_path: Path, facts: str
) -> None:
    versions(2)(tmp_path)
    (tmp_path / NAME / "2" / "assets.extra" / "model.json").write_text(facts)
    assert list_models(tmp_path, NAME)[-1].rollback_of is None
    assert roll_back(tmp_path, NAME).rollback_of == 1
    assert prune_versions(tmp_path / NAME, 1) == [2]


def test_histories_at_random_go_back_to_what_was_never_withdrawn(quick_folder: Path) -> None:
    """Beside a stack: publishing puts a content on it, going back takes what was withdrawn off it."""
    draw = random.Random(0)
    for history in range(40):
        models, good, served, done = quick_folder / str(history), [1, 2, 3, 4], 4, ["publish"] * 4
        versions(4)(models)
        for _ in range(10):
            present = {version.content for version in list_models(models, NAME)}
            good = [content for content in good if content in present]
            step = draw.choice(["publish", "publish", "back", "back", "to", "to", "prune"])
            done.append(step)
            if step == "publish":
                served = publish_next(models)
                good.append(served)
            elif step == "prune":
                prune_versions(models / NAME, draw.randint(2, 9))
            elif step == "to":
                target = draw.choice([version.version for version in list_models(models, NAME)])
                content = {version.version: version.content for version in list_models(models, NAME)}[target]
                if content == served:
                    continue
                served = roll_back(models, NAME, target).content
                good = [content for content in good if content < served] + [served]
            elif len(good) > 1:
                good.pop()
                served = roll_back(models, NAME).content
            else:
                with pytest.raises(UserError, match="There is no version"):
                    roll_back(models, NAME)
            assert served == good[-1] == list_models(models, NAME)[-1].content, done
        shutil.rmtree(models)


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: str) -> None:
        raise PermissionError

    versions(2)(tmp_path)
    monkeypatch.setattr(os, "link", no_links)
    assert roll_back(tmp_path, NAME).rollback_of == 1
    assert broken_versions(tmp_path / NAME) == []


def test_a_version_that_goes_while_it_is_read_is_not_published_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(2)(tmp_path)
    link = os.link

    def link_and_remove(source: str, target: str) -> None:
        link(source, target)
        if (tmp_path / NAME / "1").exists():
            os.rename(tmp_path / NAME / "1", tmp_path / NAME / ".removed-1")

    monkeypatch.setattr(os, "link", link_and_remove)
    with pytest.raises(UserError, match="was removed while it was read"):
        roll_back(tmp_path, NAME, 1)
    assert published_versions(tmp_path / NAME) == [2]


def test_foreign_folders_are_no_models_and_a_damaged_description_says_nothing(tmp_path: Path) -> None:
    versions(2)(tmp_path)
    (tmp_path / "no model" / "1").mkdir(parents=True)
    (tmp_path / ".git" / "1").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "3").mkdir(parents=True)
    extra = tmp_path / NAME / "2" / "assets.extra"
    (extra / "model.json").write_text("{half")
    found = list_models(tmp_path)
    assert [(each.name, each.version, each.whole, each.served) for each in found] == [
        ("m", 1, True, False), ("m", 2, True, True), ("other", 3, False, True)
    ]  # fmt: skip
    assert found[1].accuracy is found[1].backbone is None
    with pytest.raises(UserError, match="nothing to go back to"):
        roll_back(tmp_path, "other")
    assert list_models(tmp_path / "nowhere") == []


def test_a_description_that_somebody_else_wrote_and_a_link_harm_nothing(tmp_path: Path) -> None:
    versions(3)(tmp_path)
    for number, facts in enumerate(
        [[1], {"test": 5, "exported": 2024}, {"test": {"accuracy": "good", "count": float("inf")}}]
    ):
        description = tmp_path / NAME / str(number + 1) / "assets.extra" / "model.json"
        description.write_text(json.dumps(facts))
    found = list_models(tmp_path)
    assert {(each.accuracy, each.test_count, each.exported) for each in found} == {(None, None, None)}
    (tmp_path / "mine").mkdir()
    (tmp_path / NAME / "0").symlink_to(tmp_path / "mine", target_is_directory=True)
    assert prune_versions(tmp_path / NAME, 1) == [0, 1, 2]
    assert [each.name for each in (tmp_path / NAME).iterdir()] == ["3"] and (tmp_path / "mine").is_dir()


def test_every_model_is_in_models_config_and_a_users_own_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no exported model"):
        write_models_config(tmp_path)
    publish_next(tmp_path)
    config = tmp_path / "models.config"
    assert config.read_text() == models_config(["m"])
    (tmp_path / "another" / "1").mkdir(parents=True)
    publish_next(tmp_path)
    assert config.read_text() == models_config(["another", "m"])
    config.write_text("model_config_list {}\n")
    publish_next(tmp_path)
    assert config.read_text() == "model_config_list {}\n"
    assert write_models_config(tmp_path) is None


OWN = """model_config_list {  # mine
  config { name: 'flowers' base_path: "/data/flowers" model_platform: "tensorflow"
    model_version_policy { specific { versions: 4 versions: 7 } } version_labels { key: "canary" value: 7 } }
  config: { name: "birds", base_path: "/data/birds" }
  # config { name: "m" }
}
"""


def test_a_config_of_ones_own_that_keeps_a_version_from_being_served_is_said_with_the_lines_to_add(
    tmp_path: Path, kerastl: Kerastl
) -> None:
    models = tmp_path / "saved_models"
    versions(2)(models)
    assert not_listed(models, NAME, 2) == ""
    (models / "models.config").write_text(OWN, encoding="utf-8")
    problem = not_listed(models, NAME, 2)
    assert "will not serve 'm'" in problem and 'base_path: "/data/m"' in problem
    assert not_listed(models, "birds", 9) == not_listed(models, "flowers", 7) == ""
    problem = not_listed(models, "flowers", 8)
    assert "certain versions of 'flowers' alone" in problem and "versions: 8" in problem
    done = kerastl("models", "rollback", NAME)
    assert done.returncode == 0 and "warning: " in done.stderr and "will not serve 'm'" in done.stderr
    done = kerastl("models", "config")
    assert done.returncode == 1 and "left alone" in done.stderr and "will not serve 'm'" in done.stderr
    # the lines are what TensorFlow Serving takes, and silence the warning
    lines = not_listed(models, NAME, 2).partition(":\n")[2]
    (models / "models.config").write_text(OWN.rpartition("}")[0] + lines + "\n}\n")
    assert not_listed(models, NAME, 2) == ""
    assert kerastl("models", "rollback", NAME, "--to", "2").stderr == ""


@pytest.mark.parametrize(
    "text",
    [
        'model_config_list: { config: [ { name: "m", base_path: "/data/m" }, { name: "n" base_path: "/data/n" } ] }',
        "model_config_list < config < name: 'n' > config < base_path: '/data/m' name: 'm'; > >",
        'model_config_list { config { # a comment with } and "\n  name: "n" base_path: "s3://a#{b/n" }\n config{name:"m"} }',
        'model_config_list { config { name: "public" base_path: "/data/m/" } config { name: "n" } }',
        'model_config_list { config { name: "m" model_version_policy { specific { versions: [1, 2] } } } config { name: "n" } }',
        'model_config_list { config { name: "m" model_version_policy { specific { versions: 1 } } version_labels { key: "n" '
        'value: 1 } } config { name: "canary" base_path: "/data/m" } config { name: "n" } }',
    ],
)
def test_a_config_of_ones_own_may_be_written_in_every_style(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.config").write_text(text)
    assert not_listed(tmp_path, "m", 2) == not_listed(tmp_path, "n", 7) == ""
    assert "will not serve 'x'" in not_listed(tmp_path, "x", 1)
    if "[1, 2]" in text:
        assert "certain versions of 'm' alone" in not_listed(tmp_path, "m", 3)


def test_tensorflow_serving_reads_models_config() -> None:
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    parsed = text_format.Parse(models_config(["digits", "a-b.c_1"]), ModelServerConfig())
    assert [(each.name, each.base_path, each.model_platform) for each in parsed.model_config_list.config] == [
        ("digits", "/models/digits", "tensorflow"), ("a-b.c_1", "/models/a-b.c_1", "tensorflow")
    ]  # fmt: skip
    text_format.Parse(OWN, ModelServerConfig())  # else what is found in it proves nothing
    with pytest.raises(text_format.ParseError):
        text_format.Parse(models_config(["a"]).replace("base_path", "path"), ModelServerConfig())


def with_facts(models: Path) -> None:
    versions(2)(models)
    facts = {"exported": "2026-01-02T03:04:05+00:00", "backbone": "vgg16", "recipe": "flowers",
             "test": {"accuracy": 0.875, "count": 1200}}  # fmt: skip
    (models / NAME / "2" / "assets.extra" / "model.json").write_text(json.dumps(facts))


def test_the_command_line_lists_goes_back_and_prunes(kerastl: Kerastl, tmp_path: Path) -> None:
    models = tmp_path / "saved_models"
    assert kerastl("models", "list").stdout == "no model in saved_models\n"
    with_facts(models)
    header, first, second = kerastl("models", "list").stdout.splitlines()
    assert header.split()[:3] == ["name", "version", "accuracy"]
    assert first.split()[:3] == ["m", "1", "-"]
    shown = ["m", "2", "0.875", "1,200", "2026-01-02", "vgg16"]
    assert second.split()[:6] == shown and second.endswith("served")
    done = kerastl("models", "rollback", NAME)
    assert (done.returncode, done.stdout) == (0, "saved_models/m/3  served, roll back of 1\n")
    rows = json.loads(kerastl("models", "list", NAME, "--json").stdout)
    assert [(row["version"], row["rollback_of"], row["served"]) for row in rows] == [
        (1, None, False), (2, None, False), (3, 1, True)
    ]  # fmt: skip
    pruned = json.loads(kerastl("models", "prune", NAME, "--keep", "1", "--json").stdout)
    assert (pruned["name"], pruned["removed"]) == (NAME, [2])
    assert [(row["version"], row["served"]) for row in pruned["kept"]] == [(1, False), (3, True)]
    assert kerastl("models", "prune", NAME, "--keep", "1").stdout == "removed nothing\n"
    assert kerastl("models", "config").stdout == "saved_models/models.config\n"
    made = json.loads(kerastl("models", "config", "--json").stdout)
    assert made == {"path": "saved_models/models.config", "models": [NAME]}
    assert published_versions(models / NAME) == [1, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "mm"], "no model 'mm'"),
        (["rollback", "mm"], "no model 'mm'"),
        (["rollback", NAME, "--to", "7"], "no version 7. Expected one of: 1, 2"),
        (["rollback", NAME, "--to", "2"], "is what is served already"),
        (["prune", NAME, "--keep", "0"], "--keep"),
        (["prune", NAME], "--keep"),
        (["prune", "mm", "--keep", "1"], "Did you mean 'm'"),
        (["config", "--models", "nowhere"], "nowhere holds no exported model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_with_models_is_said(
    kerastl: Kerastl, tmp_path: Path, words: list[str], message: str
) -> None:
    versions(2)(tmp_path / "saved_models")
    done = kerastl("models", *words)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    assert message in done.stderr
    assert published_versions(tmp_path / "saved_models" / NAME) == [1, 2]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.EIO])
def test_a_file_system_without_locks_is_published_to_and_any_other_trouble_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    base = tmp_path / NAME
    if code != errno.EIO:
        with workspace(base) as built:
            assert built.parent.is_dir()
    else:
        with pytest.raises(OSError, match=os.strerror(code)), workspace(base):
            pass
    assert not base.exists() or not list(base.iterdir())
