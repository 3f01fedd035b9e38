# The Debian and Ubuntu packages that tessera is built with; read by setup.sh and local-deps.sh.
# shellcheck shell=bash disable=SC2034

tools=(g++ cmake ninja-build ccache git)

libraries=(
  libopenblas-openmp-dev # CBLAS for GEMM
  nlohmann-json3-dev     # configs, checkpoints
  libstb-dev             # images
  libfmt-dev             # messages
  libutf8proc-dev        # Unicode categories of the tokenizers
  libcli11-dev           # command line
  doctest-dev            # tests
  libbenchmark-dev       # benchmarks
)

optional=(clang-format clang-tidy libopenmpi-dev)

clang=(clang libomp-dev)
