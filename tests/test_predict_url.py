"""`kerastl predict --url`: addresses, what is printed, and what an installation needs for it."""

from __future__ import annotations

import copy
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Kerastl
from PIL import Image
from served import NEEDS_GRPC, PALETTE, StandIn

from kerastl.cli.predict import predict
from kerastl.client.address import is_address, parse_address
from kerastl.errors import UserError


@pytest.mark.parametrize(
    ("text", "url", "version"),
    [
        ("http://localhost:8501/v1/models/flowers", "http://localhost:8501/v1/models/flowers", None),
        ("http://h/v1/models/flowers/", "http://h/v1/models/flowers", None),
        ("http://h:1/v1/models/flowers/versions/12:predict", "http://h:1/v1/models/flowers/versions/12", 12),
        ("https://h/vision/v1/models/f", "https://h/vision/v1/models/f", None),
        ("https://me:secret@h/v1/models/f", "https://h/v1/models/f", None),
        ("http://h/v1/models/rote%20rosen", "http://h/v1/models/rote%20rosen", None),
        ("http://[::1]:8501/v1/models/f", "http://[::1]:8501/v1/models/f", None),
        ("grpc://h:9000/flowers", "grpc://h:9000/flowers", None),
        ("grpc://h/flowers/versions/2", "grpc://h:8500/flowers/versions/2", 2),
        ("grpcs://h/flowers", "grpcs://h:8500/flowers", None),
        ("http://h/v1/models/f/labels/canary:predict", "http://h/v1/models/f/labels/canary", None),
        ("grpc://h:1/f/labels/a%20b", "grpc://h:1/f/labels/a%20b", None),
    ],
)
def test_an_address_is_read_and_shown_without_passwords(text: str, url: str, version: int | None) -> None:
    address = parse_address(text)
    assert (address.url, str(address), address.version) == (url, url, version)
    assert is_address(text)
    assert parse_address(address.url).url == url


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("localhost:8501", ["does not say whether", "http://localhost:8501/v1/models/NAME", "grpc://localhost:8500"]),
        ("myhost:8501/v1/models/f", ["does not say whether", "http://myhost:8501/v1/models/NAME"]),
        ("http://myhost:8501", ["names no model", "http://myhost:8501/v1/models/NAME"]),
        ("http://h:8501/flowers", ["names no model"]),
        ("http://h/v1/models/", ["names no model"]),
        ("http://h/v1/models/f:classify", ["names no model"]),
        ("http://h/v1/models/f?x=1", ["names no model"]),
        ("http://h/v1/models/f/versions/last", ["names no model", "/versions/N"]),
        ("http://h/v1/models/f/labels/", ["names no model", "/labels/LABEL"]),
        ("http://h/v1/models/f/versions/3/labels/x", ["names no model"]),
        ("grpc://h:8500", ["names no model", "grpc://h:8500/NAME"]),
        ("ftp://h/v1/models/f", ["'ftp' is none of http, https, grpc and grpcs"]),
        ("http:///v1/models/f", ["names no host"]),
        ("http://h:99999/v1/models/f", ["port"]),
        ("http://me:secret@h", ["'http://h'", "names no model"]),
        ("", ["does not say whether"]),
    ],
)  # fmt: skip
def test_what_is_no_address_says_what_is_expected(text: str, fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_address(text)
    for fragment in [*fragments, "Expected http://"]:
        assert fragment in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_is_no_address(tmp_path: Path) -> None:
    for folder in ("runs/x", "saved_models/flowers/1", str(tmp_path), "a:b", tmp_path):
        assert not is_address(folder)


def run(*words: str | Path) -> Any:
    # A copy, because click keeps in a command how its help was first asked for, and the pages are made from it.
    return CliRunner(env={"COLUMNS": "200"}).invoke(copy.copy(predict), [*map(str, words)])


def test_the_command_line_prints_a_table(served: StandIn, palette: Path) -> None:
    done = run("--url", served.url("flowers"), palette / "b*.png", "--top", "2")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["image", "label", "probability"]
    assert [line.split()[-2] for line in lines[1::2]] == ["black", "blue"]
    assert len(lines) == 5
    assert run(served.url("flowers"), palette / "b*.png", "--top", "2").stdout == done.stdout


def test_the_command_line_prints_json(served: StandIn, palette: Path) -> None:
    done = run("--url", served.url("flowers"), "--json", palette)
    answers = json.loads(done.stdout)
    assert (
        [Path(each["path"]).stem for each in answers]
        == [each["label"] for each in answers]
        == sorted(PALETTE)
    )
    assert answers[0]["accepted"] is True
    assert answers[0]["top"][0] == [answers[0]["label"], answers[0]["probability"]]


def test_the_command_line_prints_csv(served: StandIn, palette: Path) -> None:
    odd = palette / 'a, "b".png'
    odd.write_bytes(b"")
    done = run("--url", served.url("careful"), "--csv", "--top", "2", odd, palette / "red.png")
    assert done.exit_code == 1
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["image", "rank", "label", "probability", "accepted", "error"]
    assert rows[1] == [str(odd), "", "", "", "no", "empty file"]
    assert [row[:3] for row in rows[2:]] == [
        [str(palette / "red.png"), "1", "red"],
        [str(palette / "red.png"), "2", rows[3][2]],
    ]
    assert {row[4] for row in rows[2:]} == {"yes"}
    assert float(rows[2][3]) > float(rows[3][3])


def test_table_and_csv_say_where_the_model_abstains(served: StandIn, palette: Path) -> None:
    Image.new("RGB", (8, 8), (125, 125, 125)).save(palette / "between.png")
    lines = run("--url", served.url("careful"), palette / "b*.png", "--top", "2").stdout.splitlines()
    assert lines[0].split() == ["image", "label", "probability", "accepted"]
    assert [line.split()[0].rpartition("/")[2] for line in lines if line.endswith("no")] == ["between.png"]
    rows = list(
        csv.reader(io.StringIO(run("--url", served.url("careful"), palette / "b*.png", "--csv").stdout))
    )
    assert {Path(row[0]).stem: row[4] for row in rows[1:]} == {"between": "no", "black": "yes", "blue": "yes"}


def test_what_cannot_be_read_is_never_accepted(served: StandIn, palette: Path) -> None:
    (palette / "bad.png").write_bytes(b"bad")
    done = run("--url", served.url("flowers"), palette, "--json", "-q")
    found = {Path(each["path"]).stem: each for each in json.loads(done.stdout)}
    assert found["bad"]["error"] and found["bad"]["accepted"] is False and found["bad"]["labels"] is None
    assert all(each["accepted"] is True for name, each in found.items() if name != "bad")
    rows = csv.DictReader(io.StringIO(run("--url", served.url("flowers"), palette, "--csv", "-q").stdout))
    assert {Path(row["image"]).stem for row in rows if row["accepted"] != "yes"} == {"bad"}


def test_all_labels_of_an_image_are_named_where_it_has_several(served: StandIn, palette: Path) -> None:
    Image.new("RGB", (8, 8), (225, 140, 35)).save(palette / "orange.png")
    url, images = served.url("tags"), [palette / "black.png", palette / "orange.png"]
    found = json.loads(run("--url", url, *images, "--json").stdout)
    assert [each["labels"] for each in found] == [["black"], ["red", "yellow"]]
    lines = run("--url", url, *images, "--top", "2").stdout.splitlines()
    assert lines[0].split("  ")[-1].strip() == "all labels"
    assert [line.rpartition("  ")[2] for line in lines[1::2]] == ["black", "red, yellow"]
    rows = list(csv.DictReader(io.StringIO(run("--url", url, *images, "--csv").stdout)))
    assert [row["labels"] for row in rows] == ["black", "red|yellow"]
    single = run("--url", served.url("flowers"), *images, "--json").stdout
    assert [each["labels"] for each in json.loads(single)] == [None, None]


def test_the_command_line_ends_with_1_after_a_bad_image(served: StandIn, palette: Path) -> None:
    (palette / "bad.png").write_bytes(b"bad")
    done = run("--url", served.url("flowers"), palette)
    assert done.exit_code == 1
    assert f"warning: {palette / 'bad.png'}: not an image" in done.stderr
    assert "bad.png" not in done.stdout
    assert len(done.stdout.splitlines()) == len(PALETTE) + 1


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--url", "localhost:8501", "x.png"], ["'localhost:8501'", "/v1/models/NAME"]),
        (["localhost:8501", "x.png"], ["'localhost:8501'", "/v1/models/NAME"]),
        (["--url", "runs/x", "x.png"], ["'runs/x' is not the address"]),
        (["--url", "http://h/v1/models/f"], ["Missing argument 'EXAMPLE...'"]),
        (["--url", "http://h/v1/models/f", "x.png"], ["No image 'x.png'"]),
        (["--url", "http://h/v1/models/f", "x.png", "--json", "--csv"], ["--json and --csv"]),
        (["--url", "http://h/v1/models/f", "x.png", "--timeout", "0"], ["--timeout"]),
        (["--url", "http://h/v1/models/f", "x.png", "--timeout", "nan"], ["--timeout", "nan is not a number"]),
        (["--url", "http://h/v1/models/f", "x.png", "--timeout", "1e300"], ["--timeout", "range"]),
        (["--url", f"grpc://h/f/versions/{10**20}", "x.png"], ["names no model"]),
        ([], ["Missing argument 'MODEL'"]),
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_what_the_user_can_mend_ends_with_2(kerastl: Kerastl, words: list[str], fragments: list[str]) -> None:
    done = kerastl("predict", *words)
    assert (done.returncode, done.stdout) == (2, "")
    for fragment in [*fragments, "error: "]:
        assert fragment in done.stderr


def test_a_rest_client_needs_no_tensorflow(served: StandIn, picture: str, tmp_path: Path) -> None:
    program = (
        "import sys\nfor name in ('tensorflow', 'keras', 'grpc'): sys.modules[name] = None\n"
        "from kerastl.cli import main\nmain()"
    )
    words = ["predict", "--url", served.url("flowers"), picture, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["label"] == "red"


def test_grpc_without_its_extra_says_what_to_install(picture: str, tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['tensorflow_serving'] = None\n"
        "from kerastl.client.asking import ask\n"
        "try:\n    ask('grpc://h:8500/f', sys.argv[1:], top=1)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, picture], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("UserError grpc://h:8500/f cannot be asked")
    assert 'pip install "kerastl[grpc]"' in done.stdout
    assert "http://h:8501/v1/models/f" in done.stdout


@NEEDS_GRPC
def test_the_command_line_speaks_grpc(served: StandIn, picture: str, kerastl: Kerastl) -> None:
    done = kerastl("predict", "--url", served.url("flowers", "grpc"), picture, "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(f"{picture},1,red,0.9")
