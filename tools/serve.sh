#!/usr/bin/env bash
# Serves saved_models/$1, or the only model there, with TensorFlow Serving in Docker until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

# A version folder is a number; anything else is still being written.
models=$(find saved_models -mindepth 2 -maxdepth 2 -type d -name '[0-9]*' -printf '%P\n' 2>/dev/null | cut -d/ -f1 | sort -u)
if [ -z "$models" ]; then
    echo "error: saved_models/ holds no exported model. \`make demo\` or \`kerastl fit\` makes one." >&2
    exit 2
fi
model=${1:-$models}
if [ -z "${1:-}" ] && [ "$(wc -l <<<"$models")" -gt 1 ]; then
    problem="saved_models/ holds several models"
elif ! grep -qxF -- "$model" <<<"$models"; then
    problem="saved_models/ holds no model '$model'"
fi
if [ -n "${problem:-}" ]; then
    echo "error: $problem. Name one: make serve MODEL=NAME. There are:" $models >&2
    exit 2
fi
if ! command -v docker >/dev/null; then
    echo "error: docker is not installed; TensorFlow Serving comes as the image tensorflow/serving." >&2
    echo "       Any other TensorFlow Serving takes the folder as it is:" >&2
    echo "       tensorflow_model_server --model_name=$model --model_base_path=$PWD/saved_models/$model --rest_api_port=8501" >&2
    exit 2
fi
if ! docker info >/dev/null 2>&1; then
    echo "error: docker is installed but does not answer; start its service, or ask to be allowed to use it." >&2
    exit 2
fi
echo "Serving $model: http://localhost:8501/v1/models/$model (REST), localhost:8500 (gRPC); Ctrl-C ends it."
exec docker run --rm --publish 8500:8500 --publish 8501:8501 \
    --mount "type=bind,source=$PWD/saved_models/$model,target=/models/$model,readonly" \
    --env "MODEL_NAME=$model" tensorflow/serving:latest
