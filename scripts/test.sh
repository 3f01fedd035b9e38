#!/usr/bin/env bash
# Sets up, builds and runs all tests; the last lines are ctest's summary.
# usage: test.sh [ctest options, such as -L gradient or -R autograd]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
if [[ -z ${TESSERA_DATA_DIR:-} && -d ../shared/data ]]; then
  TESSERA_DATA_DIR=$(cd ../shared/data && pwd)
  export TESSERA_DATA_DIR
fi
cmake --preset release
cmake --build --preset release
ctest --preset release --no-tests=error "$@"
