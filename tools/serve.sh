#!/usr/bin/env bash
# Serves all of saved_models/, or saved_models/$1 alone, with TensorFlow Serving in Docker until Ctrl-C.
# With BATCHING=1 requests of several clients are joined, as tools/batching.config says.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

# A version folder is a number; anything else is still being written, or on its way out.
models=$(find saved_models -mindepth 2 -maxdepth 2 -type d -regex 'saved_models/[A-Za-z0-9_][A-Za-z0-9_.-]*/[0-9]+' \
    -printf '%P\n' 2>/dev/null | cut -d/ -f1 | sort -u || true)
[ -n "$models" ] || fail "saved_models/ holds no exported model. \`make demo\` or \`kerastl fit\` makes one."
model=${1:-}
if [ -n "$model" ]; then
    grep -qxF -- "$model" <<<"$models" ||
        fail "saved_models/ holds no model '$model'. Name one: make serve MODEL=NAME. There are: $(paste -sd' ' <<<"$models")"
    arguments=("--model_name=$model" "--model_base_path=/models/$model")
    elsewhere="--model_name=$model --model_base_path=$PWD/saved_models/$model"
else
    # A name without a version would keep the server from answering at all (tensorflow/serving issue 2189).
    named=$(sed -n 's/^ *name: "\(.*\)"$/\1/p' saved_models/models.config 2>/dev/null | sort -u || true)
    [ "$named" = "$models" ] ||
        fail "saved_models/models.config does not name the models that are there: $(paste -sd' ' <<<"$models")." \
            "\`kerastl models config\` writes it anew; or serve one: make serve MODEL=NAME"
    arguments=(--model_config_file=/models/models.config --model_config_file_poll_wait_seconds=60)
    elsewhere="--model_config_file=a copy of saved_models/models.config with $PWD/saved_models in place of /models"
fi
options=(--mount "type=bind,source=$PWD/saved_models,target=/models,readonly")
if [ -n "${BATCHING:-}" ]; then
    options+=(--mount "type=bind,source=$PWD/tools/batching.config,target=/batching.config,readonly")
    arguments+=(--enable_batching=true --batching_parameters_file=/batching.config)
fi
if ! command -v docker >/dev/null; then
    fail "docker is not installed; TensorFlow Serving comes as the image tensorflow/serving." \
        "Any other TensorFlow Serving takes the folder as it is:" \
        "tensorflow_model_server --port=8500 --rest_api_port=8501 $elsewhere"
fi
docker info >/dev/null 2>&1 ||
    fail "docker is installed but does not answer; start its service, or ask to be allowed to use it."
for name in ${model:-$models}; do
    echo "Serving $name: http://localhost:8501/v1/models/$name (REST), localhost:8500 (gRPC); Ctrl-C ends it."
done
# The image's own entrypoint is a shell script that waits for the server and hands no signal on: Ctrl-C would end neither.
# So the server is started without it, below --init, because the first process of a container ignores signals.
exec docker run --rm --init --entrypoint tensorflow_model_server --publish 8500:8500 --publish 8501:8501 \
    "${options[@]}" tensorflow/serving:latest --port=8500 --rest_api_port=8501 "${arguments[@]}"
