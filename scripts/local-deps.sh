#!/usr/bin/env bash
# Unpacks the headers and libraries that the build needs into PREFIX/usr, for machines without
# root: the packages of setup.sh and the libraries they need at run time. The compiler, cmake and
# ninja must be there already.
# usage: local-deps.sh PREFIX
set -euo pipefail
if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '2,5s/^# //p' "$0" >&2
  exit 2
fi
# shellcheck source=scripts/packages.sh
source "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
mkdir -p "$1/packages"
prefix=$(cd "$1" && pwd)

# Libraries of the compiler and the C library come with the compiler.
needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
  --no-replaces --no-enhances "${libraries[@]}" |
  grep -E '^lib[a-z0-9.+-]+$' |
  grep -vE '^lib(c6|c-dev|c-bin|c6-dev|crypt|gcc-s1|stdc\+\+6|gomp1)' || true)
mapfile -t packages < <(printf '%s\n' "${libraries[@]}" "$needed" | sed '/^$/d' | sort -u)

echo "local-deps: downloading ${packages[*]}"
cd "$prefix/packages"
apt-get -q download "${packages[@]}"
for archive in ./*.deb; do
  dpkg-deb -x "$archive" "$prefix"
done

libraries_at=$prefix/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
cat <<END
local-deps: unpacked into $prefix; build with

  export LD_LIBRARY_PATH=$libraries_at:$libraries_at/openblas-openmp
  cmake --preset release -DCMAKE_PREFIX_PATH=$prefix/usr
  cmake --build --preset release
END
