#include "tessera/attention/engines/work.h"

#include <atomic>

namespace tessera::engine {
namespace {

std::atomic<int64_t> done{0};

}  // namespace

int64_t multiply_adds() {
  return done;
}

void count_multiply_adds(int64_t entries, int64_t query_width, int64_t value_width) {
  done += entries * (query_width + value_width);
}

}  // namespace tessera::engine
