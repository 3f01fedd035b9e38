#include "tessera/core/parallel.h"

#include <omp.h>

#include <exception>
#include <mutex>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace tessera {

int num_threads() { return omp_get_max_threads(); }

void set_num_threads(int count) { omp_set_num_threads(std::max(1, count)); }

bool in_parallel() { return omp_in_parallel() != 0; }

void flush_denormals() {
#if defined(__SSE__)
#pragma omp parallel
  _mm_setcsr(_mm_getcsr() | 0x8040u);  // FTZ and DAZ
#endif
}

namespace detail {

void run_parallel(int64_t count, void (*call)(const void* fn, int64_t i), const void* fn) {
  std::exception_ptr error;
  std::mutex mutex;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    try {
      call(fn, i);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace detail
}  // namespace tessera
