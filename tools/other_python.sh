#!/usr/bin/env bash
# Prints a Python that kerastl supports and whose version is not that of the Python $1; nothing where there is none.
set -euo pipefail

own=$("$1" -c 'import sys; print(*sys.version_info[:2], sep=".")')
shopt -s nullglob
for version in 3.13 3.12 3.11; do
    [ "$version" != "$own" ] || continue
    # pyenv's shims on the PATH answer only for versions that were chosen
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$python"
            exit
        fi
    done
done
