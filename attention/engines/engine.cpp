#include "tessera/attention/engines/engine.h"

#include <atomic>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

std::atomic<int64_t> entries_computed{0};

}  // namespace

int64_t score_entries() {
  return entries_computed;
}
void count_score_entries(int64_t entries) {
  entries_computed += entries;
}

namespace engine {

Tensor empty_heads(const Shape& shape, DType dtype, Device device) {
  return views::transpose(empty({shape[0], shape[2], shape[1], shape[3]}, {dtype, device}), 1, 2);
}

Tensor with_dense_rows(const Tensor& x) {
  return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : kernels::contiguous(x);
}

}  // namespace engine

}  // namespace tessera
