#!/usr/bin/env bash
# Installs what the build needs, from the packages of Debian 12 or newer, or of Ubuntu 24.04 or
# newer. Does nothing (and asks for no password) when everything is there.
# usage: setup.sh [--optional] [--clang]
#   --optional  also clang-format, clang-tidy and MPI
#   --clang     also clang and its OpenMP runtime
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/packages.sh

wanted=("${tools[@]}" "${libraries[@]}")
for argument in "$@"; do
  case $argument in
    --optional) wanted+=("${optional[@]}") ;;
    --clang) wanted+=("${clang[@]}") ;;
    *) sed -n '2,6s/^# //p' "$0" >&2; exit 2 ;;
  esac
done

if ! command -v apt-get >/dev/null; then
  echo "setup: no apt-get here; install the equivalents of: ${wanted[*]}" >&2
  exit 1
fi

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "setup: all ${#wanted[@]} packages are installed"
  exit 0
fi

echo "setup: installing ${missing[*]}"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: this needs root, and there is no sudo; as root run: apt-get install ${missing[*]}" >&2
    echo "setup: without root, scripts/local-deps.sh PREFIX unpacks the libraries into a folder" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
"${apt[@]}" update || echo "setup: apt-get update failed; going on with the old package lists" >&2
"${apt[@]}" install --no-install-recommends "${missing[@]}"
echo "setup: done"
