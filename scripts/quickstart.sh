#!/usr/bin/env bash
# Install, write the shapes videos, sample one video per direction from the shipped weights, encode
# the videos once, and train a small Latte on their latents from scratch for a few minutes.
#
#   scripts/quickstart.sh [FOLDER]
#
#   FOLDER        where everything is written (default: outputs/quickstart)
#   VENV, PYTHON  as in scripts/setup.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=${1:-$root/outputs/quickstart}
case $output in
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    /*) ;;
    *) output=$PWD/$output ;;
esac
environment=${VENV:-$root/.venv}
"$root/scripts/setup.sh" "$environment"
cd "$root"
python=$environment/bin/python
export GLOG_v=${GLOG_v:-3}

echo "1/4  Writing a small labelled video set: shapes that move in 8 directions."
if [ ! -f "$output/videos/captions.csv" ]; then # written last: if missing, the set is incomplete
    "$python" examples/moving_shapes/make_shapes.py --target "$output/videos" \
        --videos-per-class 32 --spread 0.2 --force
fi

echo "2/4  Sampling one video per direction from the shipped weights."
"$python" scripts/sample.py --config configs/shapes/sample.yaml output="$output/samples"

echo "3/4  Encoding the videos once, for training."
"$python" scripts/encode.py --config configs/shapes/train.yaml data.path="$output/videos" \
    latent_cache.path="$output/latents"

echo "4/4  Training a small Latte from scratch for a few minutes."
"$python" scripts/train.py --config configs/shapes/train.yaml data.path="$output/videos" \
    latent_cache.path="$output/latents" loop.output="$output/training" \
    network.depth=6 loop.max_steps=400 loop.save_every=400 loop.log_every=10

echo
echo "Videos:      $output/videos"
echo "Samples:     $output/samples/contact_sheet.png, with the mp4 and gif files"
echo "Loss curve:  $output/training/curves.png"
