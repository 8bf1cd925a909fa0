#!/usr/bin/env bash
# Serves all of saved_models/, or saved_models/$1 alone, with TensorFlow Serving in Docker until Ctrl-C.
# Its environment, or `make serve NAME=VALUE`, may say:
#     REST_PORT, GRPC_PORT   ports on this machine: 8501 and 8500
#     SERVING_HOST           the address they are published on: 127.0.0.1, for this machine alone; 0.0.0.0 for all networks
#     SERVING_IMAGE          the server: the version of it that belongs to the TensorFlow of constraints.txt
#     BATCHING=1             join requests of several clients, as tools/batching.config says
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C  # so that A-Z means these letters alone

image=${SERVING_IMAGE:-tensorflow/serving:2.21.0}
host=${SERVING_HOST:-127.0.0.1}
rest_port=${REST_PORT:-8501}
grpc_port=${GRPC_PORT:-8500}

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

# Names of models, one a line. By patterns of the shell alone: macOS has another find than Linux.
list_models() {
    local path name version
    for path in saved_models/*/*/; do
        path=${path#saved_models/}
        name=${path%%/*}
        version=${path#*/}
        version=${version%/}
        case $name in [A-Za-z0-9_]*) ;; *) continue ;; esac
        case $name in *[!A-Za-z0-9_.-]*) continue ;; esac
        # A version folder is a number; anything else is still being written, or on its way out.
        case $version in '' | *[!0-9]*) continue ;; esac
        echo "$name"
    done | sort -u
}

models=$(list_models)
names=$(tr '\n' ' ' <<<"$models")
names=${names% }
[ -n "$models" ] || fail "saved_models/ holds no exported model. \`make demo\` or \`kerastl fit\` makes one."
model=${1:-}
if [ -n "$model" ]; then
    grep -qxF -- "$model" <<<"$models" ||
        fail "saved_models/ holds no model '$model'. Name one: make serve MODEL=NAME. There are: $names"
    arguments=("--model_name=$model" "--model_base_path=/models/$model")
    elsewhere="--model_name=$model --model_base_path=$PWD/saved_models/$model"
else
    config=saved_models/models.config
    if [ -f $config ] && ! head -n 1 $config | grep -q '^# Written by kerastl'; then
        # somebody's own, with labels or policies: it may leave out models, and name them as it likes
        echo "Serving what $config names, which is not kerastl's: there are $names."
        models=
    fi
    # A name without a version would keep the server from answering at all (tensorflow/serving issue 2189).
    named=$(sed -n 's/^ *name: "\(.*\)"$/\1/p' $config 2>/dev/null | sort -u || true)
    [ -z "$models" ] || [ "$named" = "$models" ] ||
        fail "$config does not name the models that are there: $names." \
            "\`kerastl models config\` writes it anew; or serve one: make serve MODEL=NAME"
    arguments=(--model_config_file=/models/models.config --model_config_file_poll_wait_seconds=60)
    elsewhere="--model_config_file=a copy of $config with $PWD/saved_models in place of /models"
fi
options=(--mount "type=bind,source=$PWD/saved_models,target=/models,readonly")
if [ -n "${BATCHING:-}" ]; then
    options+=(--mount "type=bind,source=$PWD/tools/batching.config,target=/batching.config,readonly")
    arguments+=(--enable_batching=true --batching_parameters_file=/batching.config)
fi
if ! command -v docker >/dev/null; then
    fail "docker is not installed; TensorFlow Serving comes as the image $image." \
        "Any other TensorFlow Serving takes the folder as it is:" \
        "tensorflow_model_server --port=$grpc_port --rest_api_port=$rest_port $elsewhere"
fi
docker info >/dev/null 2>&1 ||
    fail "docker is installed but does not answer; start its service, or ask to be allowed to use it."
case $(docker info --format '{{.Architecture}}' 2>/dev/null) in
    arm* | aarch*)
        [ -n "${SERVING_IMAGE:-}" ] || fail \
            "TensorFlow Serving is published for x86-64 processors alone, and Docker runs on an ARM processor here, such as" \
            "Apple's: there its image does not start. Copy saved_models/ to a machine with an x86-64 processor and serve it" \
            "there, or name an image that was built for this processor: make serve SERVING_IMAGE=NAME:TAG." \
            "\`kerastl predict saved_models/NAME picture.jpg\` asks the same model without a server."
        ;;
esac
case $host in
    127.* | localhost) shown=localhost ;;
    *)
        shown=$host
        echo "Published on $host: whoever reaches this machine there may ask, because the server knows no passwords."
        ;;
esac
for name in ${model:-$models}; do
    echo "Serving $name: http://$shown:$rest_port/v1/models/$name (REST), $shown:$grpc_port (gRPC); Ctrl-C ends it."
done
# The image's own entrypoint is a shell script that waits for the server and hands no signal on: Ctrl-C would end neither.
# So the server is started without it, below --init, because the first process of a container ignores signals.
exec docker run --rm --init --entrypoint tensorflow_model_server --publish "$host:$grpc_port:8500" \
    --publish "$host:$rest_port:8501" "${options[@]}" "$image" --port=8500 --rest_api_port=8501 "${arguments[@]}"
