#include "tessera/core/parallel.h"

#include <omp.h>

#include <exception>
#include <mutex>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TESSERA_TSAN
#endif
#elif defined(__SANITIZE_THREAD__)
#define TESSERA_TSAN
#endif
#if defined(TESSERA_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace tessera {

int num_threads() {
  return omp_get_max_threads();
}

void set_num_threads(int count) {
  omp_set_num_threads(std::max(1, count));
}

bool in_parallel() {
  return omp_in_parallel() != 0;
}

void flush_denormals() {
#if defined(__SSE__)
#pragma omp parallel
  _mm_setcsr(_mm_getcsr() | 0x8040u);  // FTZ and DAZ
#endif
}

namespace {

// What a thread did before signal(x) happened before what another does after wait(x). Only the
// thread sanitizer needs to be told: it does not see into the OpenMP runtime.
void signal([[maybe_unused]] char& x) {
#if defined(TESSERA_TSAN)
  __tsan_release(&x);
#endif
}

void wait([[maybe_unused]] char& x) {
#if defined(TESSERA_TSAN)
  __tsan_acquire(&x);
#endif
}

}  // namespace

namespace detail {

void run_parallel(int64_t count, void (*call)(const void* fn, int64_t i), const void* fn) {
  std::exception_ptr error;
  std::mutex mutex;
  char begin = 0, end = 0;
  signal(begin);
#pragma omp parallel
  {
    wait(begin);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < count; ++i) {
      try {
        call(fn, i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
    signal(end);
  }
  wait(end);
  if (error) std::rethrow_exception(error);
}

}  // namespace detail
}  // namespace tessera
