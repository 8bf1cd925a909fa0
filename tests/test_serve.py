"""`make serve`: what it says where something is missing, and what it passes to Docker."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kerastl.export.models_config import write_models_config

ROOT = Path(__file__).parents[1]
DOCKER = """#!/bin/sh
[ "$1" = info ] && { [ "$#" -gt 1 ] && echo "${ARCHITECTURE:-x86_64}"; exit "${DOCKER_INFO:-0}"; }
for word in "$@"; do echo "$word"; done
"""
# What macOS has under these names does less than GNU's, and nothing without an operand.
NOT_GNU = "#!/bin/sh\nfor word; do case $word in -printf|-regex|--*) exit 1;; esac; done\nexit 1\n"
IMAGE = f"tensorflow/serving:{importlib.metadata.version('tensorflow').rpartition('.')[0]}.0"

PORTS = ["--port=8500", "--rest_api_port=8501"]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of what serving needs, with two models and a `docker` that prints what it is told."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for version in ("digits/1", "digits/12", "flowers/3", "half/.tmp-1-x", "no model/1", ".hidden/1"):
        (tmp_path / "saved_models" / version).mkdir(parents=True)
    write_models_config(tmp_path / "saved_models")
    (tmp_path / "bin").mkdir()
    for name, program in {"docker": DOCKER, "find": NOT_GNU, "paste": NOT_GNU}.items():
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def serve(house: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{house / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return subprocess.run(
        [str(house / "tools" / "serve.sh"), *words],
        capture_output=True,
        text=True,
        env={"PATH": path, **environment},
    )


def told_to_the_server(told: list[str]) -> list[str]:
    """What stands behind the image's name."""
    return told[told.index(IMAGE) + 1 :]


def test_all_models_are_served_together(house: Path) -> None:
    done = serve(house, "")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [line.split()[1] for line in told if line.startswith("Serving")] == ["digits:", "flowers:"]
    assert told_to_the_server(told) == [
        *PORTS, "--model_config_file=/models/models.config", "--model_config_file_poll_wait_seconds=60"
    ]  # fmt: skip
    assert f"type=bind,source={house}/saved_models,target=/models,readonly" in told


def test_one_model_is_served_alone(house: Path) -> None:
    told = serve(house, "flowers").stdout.splitlines()
    assert told_to_the_server(told) == [*PORTS, "--model_name=flowers", "--model_base_path=/models/flowers"]
    assert [line.split()[1] for line in told if line.startswith("Serving")] == ["flowers:"]


def test_ctrl_c_reaches_the_server(house: Path) -> None:
    """Neither a shell script, as the image's entrypoint is one, nor a first process that ignores signals is between."""
    for words in ([""], ["flowers"]):
        told = serve(house, *words).stdout.splitlines()
        options = told[told.index("run") : told.index(IMAGE)]
        assert {"--rm", "--init"} <= set(options)
        assert options[options.index("--entrypoint") + 1] == "tensorflow_model_server"


def test_ports_are_for_this_machine_alone_unless_asked_otherwise(house: Path) -> None:
    def published(told: list[str]) -> list[str]:
        return [word for before, word in itertools.pairwise(told) if before == "--publish"]

    told = serve(house, "flowers").stdout.splitlines()
    assert published(told) == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert not any("passwords" in line for line in told)
    chosen = {"SERVING_HOST": "0.0.0.0", "REST_PORT": "9001", "GRPC_PORT": "9000", "SERVING_IMAGE": "mine:1"}
    told = serve(house, "flowers", **chosen).stdout.splitlines()
    assert published(told) == ["0.0.0.0:9000:8500", "0.0.0.0:9001:8501"]
    assert "no passwords" in told[0] and "http://0.0.0.0:9001/v1/models/flowers" in told[1]
    assert told[told.index("mine:1") + 1 :][:2] == PORTS


@pytest.mark.parametrize("architecture", ["aarch64", "arm64"])
def test_on_a_processor_that_the_image_is_not_for_it_is_said(house: Path, architecture: str) -> None:
    done = serve(house, "flowers", ARCHITECTURE=architecture)
    assert (done.returncode, done.stdout) == (2, "")
    assert "x86-64 processors alone" in done.stderr and "SERVING_IMAGE=" in done.stderr
    assert serve(house, "flowers", ARCHITECTURE=architecture, SERVING_IMAGE="mine:1").returncode == 0


def test_batching_is_asked_for(house: Path) -> None:
    told = serve(house, "flowers", BATCHING="1").stdout.splitlines()
    assert told[-2:] == ["--enable_batching=true", "--batching_parameters_file=/batching.config"]
    assert f"type=bind,source={house}/tools/batching.config,target=/batching.config,readonly" in told


def test_what_is_missing_is_said(house: Path) -> None:
    done = serve(house, "flower")
    assert done.returncode == 2 and "no model 'flower'" in done.stderr and "digits flowers" in done.stderr
    assert "does not answer" in serve(house, "flowers", DOCKER_INFO="1").stderr
    # a model that was removed by hand would keep the server from answering
    shutil.rmtree(house / "saved_models" / "digits")
    done = serve(house, "")
    assert done.returncode == 2 and "`kerastl models config` writes it anew" in done.stderr
    assert serve(house, "flowers").returncode == 0
    (house / "bin" / "docker").unlink()
    if shutil.which("docker", path="/usr/bin:/bin") is None:
        done = serve(house, "flowers")
        assert done.returncode == 2 and f"--model_base_path={house}/saved_models/flowers" in done.stderr
    shutil.rmtree(house / "saved_models")
    assert "holds no exported model" in serve(house, "").stderr


def test_a_config_of_ones_own_is_served_as_it_is(house: Path) -> None:
    own = 'model_config_list { config { name: "public" base_path: "/models/flowers" } }'
    (house / "saved_models" / "models.config").write_text(own)
    done = serve(house, "")
    told = done.stdout.splitlines()
    assert done.returncode == 0 and "models.config names, which is not kerastl's" in told[0]
    assert "--model_config_file=/models/models.config" in told_to_the_server(told)
    assert not any("/v1/models/" in line for line in told), "under which names it serves is the file's affair"


def test_the_compose_file_says_what_serve_says(house: Path) -> None:
    text = (ROOT / "tools" / "compose.yaml").read_text()
    told = serve(house, "").stdout.splitlines()
    arguments = told_to_the_server(told)
    assert re.findall(r"^      - (--.*)$", text, flags=re.MULTILINE) == arguments
    # Compose fills in what stands behind `:-` where the environment says nothing
    filled = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
    ports = [word for before, word in itertools.pairwise(told) if before == "--publish"]
    assert re.findall(r'^      - "([\d.:]+)"$', filled, flags=re.MULTILINE) == ports
    assert IMAGE in told and f"    image: {IMAGE}\n" in filled
    variables = set(re.findall(r"\$\{([A-Z_]+):-", text))
    script = (ROOT / "tools" / "serve.sh").read_text()
    assert variables == set(re.findall(r"\$\{([A-Z_]+):-", script)) - {"BATCHING"}
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    service = yaml.safe_load(text)["services"]["serving"]
    assert service["healthcheck"]["test"][-1] == "exec 3<>/dev/tcp/127.0.0.1/8501"
    assert service["command"] == arguments
    assert service["init"] is True and "--init" in told
    assert service["entrypoint"] == told[told.index("--entrypoint") + 1]
    (mount,) = service["volumes"]
    assert (ROOT / "tools" / mount["source"]).resolve() == ROOT / "saved_models" and mount[
        "read_only"
    ] is True


def test_tensorflow_serving_reads_the_batching_parameters() -> None:
    """Field names and numbers of `BatchingParameters` in session_bundle_config.proto, which the API package leaves out."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="b.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in enumerate(names, start=1):
        message.field.add(name=name, number=number, type=11, label=1, type_name=".google.protobuf.Int64Value")
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))()
    text_format.Parse((ROOT / "tools" / "batching.config").read_text(), made)
    assert all(getattr(made, name).value > 0 for name in names)
