#include "tessera/core/kernels/copy.h"

#include <atomic>
#include <cstring>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy_cuda.h"
#include "tessera/core/kernels/strided.h"

namespace tessera::kernels {
namespace {

std::atomic<int64_t> copied_bytes{0};

template <class To, class From>
void copy_piece(To* to, int64_t to_step, const From* from, int64_t from_step, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    if (to_step == 1 && from_step == 1) {
      std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(count) * sizeof(To));
      return;
    }
  }
  if (to_step == 1 && from_step == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = convert<To>(from[i]);
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i * to_step] = convert<To>(from[i * from_step]);
}

}  // namespace

void copy(const Tensor& dst, const Tensor& src) {
  check(dst.shape() == src.shape(), "copy: shapes differ: {} from {}", dst.shape(), src.shape());
  if constexpr (kCuda) {
    if (dst.device().is_cuda() || src.device().is_cuda()) return copy_cuda(dst, src);
  }
  const Tensor* operands[] = {&dst, &src};
  const StridedLoop loop(dst.shape(), operands);
  visit_dtype(dst.dtype(), [&]<class To>() {
    visit_dtype(src.dtype(), [&]<class From>() {
      To* to = dst.data<To>();
      const From* from = src.data<From>();
      loop.for_each_piece(kGrain, [&](const int64_t* offsets, int64_t count) {
        copy_piece(to + offsets[0], loop.row_stride(0), from + offsets[1], loop.row_stride(1),
                   count);
      });
    });
  });
}

Tensor clone(const Tensor& x) {
  Tensor result = empty_like(x);
  copy(result, x);
  return result;
}

Tensor contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;
  copied_bytes += x.numel() * size_of(x.dtype());
  return clone(x);
}

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor result = empty(x.shape(), {dtype, x.device()});
  copy(result, x);
  return result;
}

Tensor to_device(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  Tensor result = empty(x.shape(), {x.dtype(), device});
  copy(result, x);
  return result;
}

int64_t contiguous_bytes() {
  return copied_bytes;
}

}  // namespace tessera::kernels
