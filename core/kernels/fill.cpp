#include "tessera/core/kernels/fill.h"

#include "tessera/core/kernels/copy_cuda.h"
#include "tessera/core/kernels/strided.h"

namespace tessera::kernels {

void fill(const Tensor& x, double value) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return fill_cuda(x, value);
  }
  const Tensor* operands[] = {&x};
  const StridedLoop loop(x.shape(), operands);
  visit_dtype(x.dtype(), [&]<class T>() {
    T* data = x.data<T>();
    const T converted = convert<T>(value);
    const int64_t step = loop.row_stride(0);
    loop.for_each_piece(kGrain, [&](const int64_t* offsets, int64_t count) {
      T* piece = data + offsets[0];
      if (step == 1)
        std::fill_n(piece, count, converted);
      else
        for (int64_t i = 0; i < count; ++i) piece[i * step] = converted;
    });
  });
}

}  // namespace tessera::kernels
