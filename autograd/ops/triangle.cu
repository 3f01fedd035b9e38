#include "tessera/autograd/ops/triangle_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {
namespace {

constexpr unsigned kRows = 8;  // per block, a warp for each

template <class Bits>
__global__ void triangle_kernel(Bits* y, const Bits* x, int64_t all_rows, int64_t rows,
                                int64_t columns, int64_t diagonal, bool lower) {
  for (int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.y; row < all_rows;
       row += int64_t{gridDim.x} * kRows) {
    const int64_t edge = row % rows + diagonal;
    for (int64_t c = threadIdx.x; c < columns; c += cuda::kWarp) {
      const bool stays = lower ? c <= edge : c >= edge;
      y[row * columns + c] = stays ? x[row * columns + c] : Bits{0};
    }
  }
}

template <class Bits>
void run(const Tensor& y, const Tensor& x, bool lower, int64_t diagonal) {
  const int64_t columns = x.size(-1), all_rows = x.numel() / columns;
  cuda::launch("triangle", x.device(), triangle_kernel<Bits>, cuda::blocks_for(all_rows, kRows),
               dim3(cuda::kWarp, kRows), 0, static_cast<Bits*>(y.raw_data()),
               static_cast<const Bits*>(x.raw_data()), all_rows, x.size(-2), columns, diagonal,
               lower);
}

}  // namespace

void triangle_cuda(const Tensor& y, const Tensor& x, bool lower, int64_t diagonal) {
  if (x.numel() == 0) return;
  const int64_t bytes = size_of(x.dtype());
  const auto fn = bytes == 8   ? run<uint64_t>
                  : bytes == 4 ? run<uint32_t>
                  : bytes == 2 ? run<uint16_t>
                               : run<uint8_t>;
  fn(y, x, lower, diagonal);
}

}  // namespace tessera
