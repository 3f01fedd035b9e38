// Threads on the CPU. Work is cut into pieces that depend on its size alone, never on the number of
// threads, so results are the same bits for any thread count.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tessera {

// Static scheduling parameters of all CPU kernels.
constexpr int64_t kSerialBelow = 20'000;  // elements of work that one thread does alone
constexpr int64_t kGrain = 4'096;         // elements per piece of a pointwise loop
constexpr int64_t kRowsPerBlock = 256;    // rows per GEMM block
constexpr int64_t kSumParts = 16;         // fixed parts of a sum over rows

int num_threads();
void set_num_threads(int count);
bool in_parallel();
// Sets flush-to-zero and denormals-are-zero in every worker thread. The program and the trainer
// call it once: decaying optimizer moments pass through the denormal range, slowly.
void flush_denormals();

// fn(i) for i in [0, count), pieces dealt out in order; serial when `work` (an estimate in
// elements) is small or when already inside a parallel region. The first exception thrown by a
// piece is rethrown here.
template <class Fn>
void parallel_for(int64_t count, int64_t work, const Fn& fn);

// fn(begin, end) over [0, n) in pieces of `grain`.
template <class Fn>
void parallel_ranges(int64_t n, int64_t grain, const Fn& fn) {
  const int64_t pieces = (n + grain - 1) / grain;
  parallel_for(pieces, n, [&](int64_t i) { fn(i * grain, std::min(n, (i + 1) * grain)); });
}

namespace detail {
void run_parallel(int64_t count, void (*call)(const void* fn, int64_t i), const void* fn);
}

template <class Fn>
void parallel_for(int64_t count, int64_t work, const Fn& fn) {
  if (count <= 1 || work < kSerialBelow || in_parallel() || num_threads() == 1) {
    for (int64_t i = 0; i < count; ++i) fn(i);
    return;
  }
  detail::run_parallel(
      count, [](const void* f, int64_t i) { (*static_cast<const Fn*>(f))(i); }, &fn);
}

}  // namespace tessera
