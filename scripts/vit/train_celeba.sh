#!/bin/sh
# UViT on CelebA at 64x64 with the published values (arXiv 2303.00800).
exec python "$(dirname "$0")/../../train.py" --preset fdp-celeba-uvit "$@"
