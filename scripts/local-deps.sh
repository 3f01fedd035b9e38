#!/usr/bin/env bash
# Unpacks the headers and libraries that the build needs into PREFIX/usr, for machines without
# root: the packages of setup.sh and the libraries they need at run time. The compiler, cmake and
# ninja must be there already.
# usage: local-deps.sh PREFIX                     downloads the packages and unpacks them
#        local-deps.sh --pack FILE.tar.gz         puts what would be unpacked into an archive
#        local-deps.sh --from FILE.tar.gz PREFIX  unpacks that archive: needs no network, only tar
set -euo pipefail

usage() {
  sed -n '2,7s/^# //p' "$0" >&2
  exit 2
}

# Downloads the packages and unpacks them into a folder.
fetch() {
  local prefix=$1 needed packages archive
  # shellcheck source=scripts/packages.sh
  source "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
  # Libraries of the compiler and the C library come with the compiler.
  needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "${libraries[@]}" |
    grep -E '^lib[a-z0-9.+-]+$' |
    grep -vE '^lib(c6|c-dev|c-bin|c6-dev|crypt|gcc-s1|stdc\+\+6|gomp1)' || true)
  mapfile -t packages < <(printf '%s\n' "${libraries[@]}" "$needed" | sed '/^$/d' | sort -u)
  echo "local-deps: downloading ${packages[*]}"
  mkdir -p "$prefix/packages"
  (cd "$prefix/packages" && apt-get -q download "${packages[@]}")
  for archive in "$prefix"/packages/*.deb; do
    dpkg-deb -x "$archive" "$prefix"
  done
}

pack() {
  local file=$1 folder
  folder=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$folder'" EXIT
  fetch "$folder"
  # Shared libraries are linked; the static ones and the documentation would only be carried along.
  find "$folder/usr" -name '*.a' ! -name 'libbenchmark*' ! -name 'libfmt*' -delete
  rm -rf "$folder/usr/share/doc" "$folder/usr/share/man"
  tar -C "$folder" -czf "$file" usr
  echo "local-deps: packed into $file ($(du -h "$file" | cut -f1)); there run"
  echo "  scripts/local-deps.sh --from ${file##*/} PREFIX"
}

hint() {
  local prefix libraries_at
  prefix=$(cd "$1" && pwd)
  libraries_at=$(dirname "$(find "$prefix/usr/lib" -name 'libfmt.so' | head -1)")
  cat <<END
local-deps: unpacked into $prefix; build with

  export LD_LIBRARY_PATH=$libraries_at:$libraries_at/openblas-openmp
  cmake --preset release -DCMAKE_PREFIX_PATH=$prefix/usr
  cmake --build --preset release
END
}

case ${1:-} in
  --pack)
    [[ $# -eq 2 ]] || usage
    pack "$2"
    ;;
  --from)
    [[ $# -eq 3 && -f $2 ]] || usage
    mkdir -p "$3"
    tar -C "$3" -xzf "$2"
    hint "$3"
    ;;
  -* | "") usage ;;
  *)
    [[ $# -eq 1 ]] || usage
    mkdir -p "$1"
    fetch "$1"
    hint "$1"
    ;;
esac
