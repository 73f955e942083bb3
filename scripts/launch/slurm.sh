#!/usr/bin/env bash
# A slurm job that runs a program on all devices of its machines. Submit it in the repository:
#
#   sbatch --nodes=2 scripts/launch/slurm.sh train --config FILE key=value ...
#
#   PYTHON  interpreter to use on all machines (default: python)
#
# Options of sbatch (partition, time, devices such as --gres=npu:8) go before the script, those of
# slurm.py (see its --help) after it.
#SBATCH --job-name=latte
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -euo pipefail

case ${1:-} in
    -h | --help | "") sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm.sh: submit this by sbatch (see --help)." >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?}" # slurm runs a copy of this file from another folder
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
    "${PYTHON:-python}" scripts/launch/slurm.py "$@"
