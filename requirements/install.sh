#!/bin/sh
# Installs a locked file of requirements; the Makefile and the Dockerfile both use it.
#
#   sh requirements/install.sh FILE PIP…
#
# PIP… is the command of the environment's pip, such as `.venv/bin/python -m pip`.
# With the environment variable TORCH_INDEX, the URL of a package index with PyTorch's CPU build, torch, torchaudio
# and torchvision come from there at the locked versions. The lock's hashes are those of the CUDA build, so these
# three are not checked against them. CUDA's libraries and triton, which only the CUDA build needs, are left out.
set -eu

file=$1
shift

if [ -z "${TORCH_INDEX:-}" ]; then
    exec "$@" install --quiet --require-hashes --no-deps -r "$file"
fi

torch='torch|torchaudio|torchvision'
others=$(mktemp)
trap 'rm -f "$others"' EXIT
awk -v left_out="^($torch|triton|nvidia-[a-z0-9-]+-cu[0-9]+)==" '/^[a-z0-9]/ {skip = $0 ~ left_out} !skip' "$file" > "$others"
"$@" install --quiet --require-hashes --no-deps -r "$others"
# shellcheck disable=SC2046  # one argument for each package
"$@" install --quiet --no-deps --index-url "$TORCH_INDEX" $(sed -nE "s/^(($torch)==[^ ]*).*/\1/p" "$file")
