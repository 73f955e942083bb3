#!/usr/bin/env bash
# Create a virtual environment and install this project into it; a second run changes nothing.
#
#   scripts/setup.sh [--test | --only FILE] [--mindspore VERSION] [FOLDER]
#
#   FOLDER               folder of the environment (default: $VENV, or .venv)
#   --test               install also what the tests need
#   --only FILE          install the packages that FILE requires, and not the project
#   --mindspore VERSION  this MindSpore instead of the pinned one
#   PYTHON               interpreter to use (default: the first suitable one on the PATH)
set -euo pipefail

fail() { echo "setup: $*" >&2; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${VENV:-$root/.venv}
requirements=(requirements.txt)
project=yes
mindspore=
while [ $# -gt 0 ]; do
    case $1 in
        --test) requirements+=(requirements-test.txt) ;;
        --only) requirements=("${2:?setup: --only needs a file}"); project=no; shift ;;
        --mindspore) mindspore=${2:?setup: --mindspore needs a version}; shift ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
        -*) fail "unknown option $1 (see --help)" ;;
        *) folder=$1 ;;
    esac
    shift
done

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a program."
        fits "$PYTHON" || fail "PYTHON=$PYTHON must be Python 3.10, 3.11 or 3.12," \
            "got $("$PYTHON" --version 2>&1 || true)."
        echo "$PYTHON"
        return
    fi
    for name in python3 python3.11 python3.12 python3.10 python; do
        if fits "$name"; then echo "$name"; return; fi
    done
    fail "no Python 3.10, 3.11 or 3.12 on the PATH (MindSpore has wheels for these);" \
        "name one with PYTHON=/path/to/python."
}

cd "$root"
requested=$(cat "${requirements[@]}")
if [ -n "$mindspore" ]; then
    requested=$(sed "s/^mindspore==.*/mindspore==$mindspore/" <<<"$requested")
fi
state=$(cat - pyproject.toml latte_ms/__init__.py <<<"$requested $root" | cksum)
stamp=$folder/.latte_ms_installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
    exit 0
fi

if [ ! -x "$folder/bin/python" ]; then
    python=$(find_python)
    echo "Creating the environment $folder with $("$python" --version)."
    "$python" -m venv "$folder"
fi
fits "$folder/bin/python" || fail "$folder holds another Python; remove the folder and run again."
echo "Installing into $folder: a few minutes and 2 to 4 GB the first time."
list=$(mktemp)
trap 'rm -f "$list"' EXIT
echo "$requested" >"$list"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
if [ $project = yes ]; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi
echo "$state" >"$stamp"
echo "Installed. Activate with: source $folder/bin/activate"
