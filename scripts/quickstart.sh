#!/usr/bin/env bash
# From nothing to a falling loss: install, write the shapes videos, train a small Latte on them.
#
#   scripts/quickstart.sh [FOLDER]
#
#   FOLDER        where everything goes (default: outputs/quickstart)
#   VENV, PYTHON  as in scripts/setup.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=${1:-$root/outputs/quickstart}
case $output in
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    /*) ;;
    *) output=$PWD/$output ;;
esac
environment=${VENV:-$root/.venv}
"$root/scripts/setup.sh" "$environment"
cd "$root"
python=$environment/bin/python
export GLOG_v=${GLOG_v:-3}

echo "1/2  Writing a small labelled video set: shapes that move in 8 directions."
if [ ! -f "$output/videos/captions.csv" ]; then
    "$python" tools/make_shapes.py --target "$output/videos" --videos-per-class 32
fi

echo "2/2  Training a small Latte from scratch for a few minutes."
"$python" scripts/train.py --config configs/shapes/train.yaml data.path="$output/videos" \
    loop.output="$output/training" loop.max_steps=200 loop.save_every=200 loop.log_every=5

echo
echo "Videos:      $output/videos"
echo "Loss curve:  $output/training/curves.png"
