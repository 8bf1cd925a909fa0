#!/usr/bin/env bash
# Makes the virtual environment $1 with the Python $2, or with the first one here that will do.
set -euo pipefail
folder=$1
asked=${2:-}

fits='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
candidates=("$asked")
[ -n "$asked" ] || candidates=(python3 python3.13 python3.12 python3.11 python)

without_venv=""
for python in "${candidates[@]}"; do
    "$python" -c "$fits" 2>/dev/null || continue
    if ! "$python" -c "import ensurepip, venv" 2>/dev/null; then
        without_venv=$python
        continue
    fi
    echo "Making $folder with $("$python" --version)"
    exec "$python" -m venv "$folder"
done

if [ -n "$without_venv" ]; then
    echo "error: $without_venv has no venv module. Install it (on Debian and Ubuntu: apt install python3-venv)," >&2
    echo "       or name another Python: make PYTHON=/path/to/python3.12" >&2
else
    found=$("${asked:-python3}" --version 2>&1) || found="nothing that runs"
    echo "error: kerastl needs Python 3.11, 3.12 or 3.13; ${asked:-python3} is: ${found##*$'\n'}." >&2
    echo "       Install one of them and name it: make PYTHON=/path/to/python3.12" >&2
fi
exit 2
