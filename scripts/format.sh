#!/usr/bin/env bash
# Formats all sources in place; with --check, changes nothing and fails when a file is not formatted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=(-i)
case ${1:-} in
  '') ;;
  --check) options=(--dry-run -Werror) ;;
  *) sed -n '2s/^# //p' "$0" >&2; exit 2 ;;
esac
git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp' '*.cc' '*.cu' '*.cuh' |
  xargs -0 -r clang-format "${options[@]}"
