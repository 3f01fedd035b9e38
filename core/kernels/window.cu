#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/planes.h"
#include "tessera/core/cuda/window.h"
#include "tessera/core/kernels/window_cuda.h"

namespace tessera::kernels {
namespace {

// Where the columns of a sample and a row of them begin, in elements.
struct ColumnStrides {
  int64_t sample;
  int64_t row;
};

// Thread: one position of one channel and `some` taps of it. Bits is an integer of the element's
// size: values only travel.
template <class Bits, int R>
__global__ void unfold_kernel(cuda::Windows<R> w, int some, int64_t planes, cuda::Divider channels,
                              const Bits* x, Bits* columns, ColumnStrides strides) {
  const unsigned position = cuda::plane_element();
  if (position >= w.positions) return;
  int start[R];
  w.split(position, w.by_out, start);
#pragma unroll
  for (int d = 0; d < R; ++d) start[d] = start[d] * w.stride[d] - w.padding[d];
  const int first = static_cast<int>(blockIdx.z) * some;
  const int last = min(w.taps, first + some);
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const unsigned sample = channels.divide(static_cast<unsigned>(plane));
    const int64_t channel = plane - static_cast<int64_t>(sample) * channels.divisor;
    const Bits* from = x + plane * w.plane;
    Bits* to = columns + sample * strides.sample + channel * w.taps * strides.row + position;
    int k[R];
    int rest = first;
#pragma unroll
    for (int d = R - 1; d >= 0; --d) {
      k[d] = rest % w.kernel[d];
      rest /= w.kernel[d];
    }
    for (int tap = first; tap < last; ++tap) {
      bool inside = true;
      int element = 0;
#pragma unroll
      for (int d = 0; d < R; ++d) {
        const int at = start[d] + k[d] * w.dilation[d];
        inside = inside && at >= 0 && at < w.in[d];
        element = element * w.in[d] + at;
      }
      to[tap * strides.row] = inside ? from[element] : Bits(0);
      bool carry = true;
#pragma unroll
      for (int d = R - 1; d >= 0; --d) {
        if (carry) ++k[d];
        carry = carry && k[d] == w.kernel[d];
        if (carry) k[d] = 0;
      }
    }
  }
}

template <class T, int R>
__global__ void fold_kernel(cuda::Windows<R> w, int64_t planes, cuda::Divider channels,
                            const T* columns, T* x, ColumnStrides strides) {
  const unsigned element = cuda::plane_element();
  if (element >= w.plane) return;
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const unsigned sample = channels.divide(static_cast<unsigned>(plane));
    const int64_t channel = plane - static_cast<int64_t>(sample) * channels.divisor;
    const T* from = columns + sample * strides.sample + channel * w.taps * strides.row;
    cuda::Compute<T> sum = 0;
    w.for_each_position(element, [&](int tap, int position) {
      sum += convert<cuda::Compute<T>>(from[tap * strides.row + position]);
    });
    x[plane * w.plane + element] = convert<T>(sum);
  }
}

struct Call {
  Device device;
  int64_t planes;
  cuda::Divider channels;
  ColumnStrides strides;

  Call(std::string_view op, const Tensor& x, const Tensor& columns)
      : device(x.device()),
        planes(x.size(0) * x.size(1)),
        channels(static_cast<unsigned>(std::max<int64_t>(1, x.size(1)))),
        strides{columns.stride(0), columns.stride(1)} {
    check(planes < int64_t{1} << 31, "{}: x {} has too many planes for CUDA", op, x.shape());
  }
};

}  // namespace

void unfold_cuda(const Window& window, const Tensor& x, const Tensor& columns) {
  if (columns.numel() == 0) return;
  const Call call("unfold", x, columns);
  cuda::PlaneGrid shape = cuda::plane_grid("unfold", call.planes, window.positions());
  // Few positions with many taps: the taps are dealt out too.
  const int64_t blocks = int64_t{shape.grid.x} * shape.grid.y;
  const int64_t wanted = std::clamp<int64_t>(4 * cuda::multiprocessors(call.device) / blocks, 1,
                                             std::min<int64_t>(window.taps(), 1024));
  const auto some = static_cast<int>((window.taps() + wanted - 1) / wanted);
  shape.grid.z = static_cast<unsigned>((window.taps() + some - 1) / some);
  cuda::visit_rank(window.in.rank(), [&]<int R>() {
    const cuda::Windows<R> w("unfold", window);
    const auto run = [&]<class Bits>(Bits) {
      cuda::launch("unfold", call.device, unfold_kernel<Bits, R>, shape.grid, shape.block, 0, w,
                   some, call.planes, call.channels, static_cast<const Bits*>(x.raw_data()),
                   static_cast<Bits*>(columns.raw_data()), call.strides);
    };
    switch (size_of(x.dtype())) {
      case 2:
        return run(uint16_t{});
      case 4:
        return run(uint32_t{});
      default:
        return run(uint64_t{});
    }
  });
}

void fold_cuda(const Window& window, const Tensor& columns, const Tensor& x) {
  if (x.numel() == 0) return;
  const Call call("fold", x, columns);
  const cuda::PlaneGrid shape = cuda::plane_grid("fold", call.planes, window.in.numel());
  cuda::visit_rank(window.in.rank(), [&]<int R>() {
    const cuda::Windows<R> w("fold", window);
    cuda::visit_floating("fold", x.dtype(), [&]<class T>() {
      cuda::launch("fold", call.device, fold_kernel<T, R>, shape.grid, shape.block, 0, w,
                   call.planes, call.channels, cuda::data<T>(columns), cuda::data<T>(x),
                   call.strides);
    });
  });
}

}  // namespace tessera::kernels
