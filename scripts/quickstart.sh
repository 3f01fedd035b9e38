#!/usr/bin/env bash
# Sets up, builds, trains a small language model and a small image classifier on generated data,
# then writes a text and classifies images. Results are in runs/quickstart_*, which it replaces.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

heading() { printf '\n== %s\n' "$1"; }
tessera=build/release/tessera

heading "Set up and build"
scripts/setup.sh
first=()
[[ -f build/release/CMakeCache.txt ]] || first=(-DTESSERA_PRECOMPILE=ON) # nothing to keep yet
cmake --preset release "${first[@]}"
cmake --build --preset release --target tessera_program
rm -rf runs/quickstart_text runs/quickstart_image runs/quickstart_images

heading "Train a language model on generated sentences"
"$tessera" train configs/quickstart_text.json --run runs/quickstart_text

heading "Generate text"
"$tessera" generate runs/quickstart_text --prompt "the " --tokens 200

heading "Train an image classifier on generated digits"
"$tessera" train configs/quickstart_image.json --run runs/quickstart_image

heading "Classify test images (each file name tells the true label)"
"$tessera" data sample configs/quickstart_image.json --count 5 --out runs/quickstart_images
"$tessera" classify runs/quickstart_image runs/quickstart_images/*.png

heading "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s; see runs/ and README.md"
