#!/usr/bin/env bash
# Create the test environment, then run ruff, mypy and pytest in it.
#
#   scripts/test.sh [--mindspore VERSION] [pytest arguments]
#
#   --slow               (for pytest) also the tests that take minutes
#   --extended           (for pytest) all tests
#   --mindspore VERSION  run pytest alone, on another MindSpore, in an environment of its own
#   VENV, PYTHON         as in scripts/setup.sh
#   WORKERS              processes that share the test files (default: 2)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
options=(--test)
folder=$root/.venv-test
checks=yes
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --mindspore)
            options+=(--mindspore "${2:?test: --mindspore needs a version}")
            folder=$root/.venv-test-$2
            checks=no
            shift
            ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
folder=${VENV:-$folder}

"$root/scripts/setup.sh" "${options[@]}" "$folder"
cd "$root"
if [ $checks = yes ]; then
    "$folder/bin/ruff" check .
    "$folder/bin/ruff" format --check .
    "$folder/bin/mypy"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# MindSpore keeps what it compiled, and its memory, until its process ends: 15 GB by the end of all
# slow tests. So they run in parts, each with new workers. A worker that dies ends its part by name: pytest-xdist
# would start another and wait for ever for the rest of its file.
parts=("tests/[a-g]*/" "tests/[h-o]*/" "tests/p*/" "tests/[q-z]*/ tests/test_*.py")
for argument in ${arguments[@]+"${arguments[@]}"}; do
    [ ! -e "${argument%%::*}" ] || parts=("")  # names what to run
done
failed=0
for part in "${parts[@]}"; do
    # shellcheck disable=SC2086  # the patterns of a part are words
    "$folder/bin/python" -m pytest -n "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder \
        --max-worker-restart 0 \
        ${arguments[@]+"${arguments[@]}"} $part || {
        status=$?
        [ $status = 5 ] || failed=$status # 5: no test of this part was selected
    }
done
exit $failed
