#include <numeric>

#include "tessera/autograd/ops/rotary_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/strided.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using cuda::Compute;

// Frequencies travel as an argument of the launch: nothing to upload. More pairs take more
// launches.
constexpr int kPairs = 128;
struct Frequencies {
  int64_t first = 0;  // pair
  int count = 0;
  double value[kPairs] = {};
};

template <class Fn>
void for_each_chunk(const std::vector<double>& frequencies, const Fn& fn) {
  const auto all = static_cast<int64_t>(frequencies.size());
  for (int64_t first = 0; first < all; first += kPairs) {
    Frequencies chunk;
    chunk.first = first;
    chunk.count = static_cast<int>(std::min<int64_t>(kPairs, all - first));
    std::copy_n(frequencies.begin() + first, chunk.count, chunk.value);
    fn(static_cast<const Frequencies&>(chunk));
  }
}

// The angle is a product in double, taken to less than half a turn before it is rounded to float.
__device__ void turn(double angle, float* sine, float* cosine) {
  constexpr double kTurnsPerRadian = 0.15915494309189533577;
  const double turns = angle * kTurnsPerRadian;
  sincospif(static_cast<float>(2 * (turns - rint(turns))), sine, cosine);
}
__device__ void turn(double angle, double* sine, double* cosine) {
  sincos(angle, sine, cosine);
}

template <class T>
__global__ void turns_kernel(T* table, const int64_t* positions, int64_t count, int64_t half,
                             Frequencies frequencies) {
  const int64_t n = count * frequencies.count;
  for (int64_t i = cuda::thread_index(); i < n; i += cuda::thread_count()) {
    const int64_t p = i / frequencies.count, k = i - p * frequencies.count;
    T* row = table + p * 2 * half + frequencies.first + k;
    Compute<T> sine, cosine;
    turn(static_cast<double>(positions[p]) * frequencies.value[k], &sine, &cosine);
    row[0] = convert<T>(cosine);
    row[half] = convert<T>(sine);
  }
}

struct RowShape {
  int64_t half, size;  // pairs that turn, and channels of a row
  bool interleaved, last;
  int sign;
};

// A thread turns V pairs of a row and goes on to rows that mostly have the same position, for which
// it knows the sines already.
constexpr int kThreads = 256;

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    rotary_kernel(cuda::Strided<3> rows, RowShape shape, Frequencies frequencies) {
  using C = Compute<T>;
  const unsigned groups = static_cast<unsigned>(frequencies.count) / V;
  const unsigned group = threadIdx.x % groups;
  const unsigned per_block = blockDim.x / groups;
  const int64_t pair = frequencies.first + group * V;
  const int64_t first = shape.interleaved ? 2 * pair : pair;
  const int64_t second = shape.interleaved ? first + V : pair + shape.half;
  int64_t known = 0;
  C sine[V] = {}, cosine[V];
#pragma unroll
  for (int v = 0; v < V; ++v) cosine[v] = 1;
  for (uint64_t row = uint64_t{blockIdx.x} * per_block + threadIdx.x / groups; row < rows.count;
       row += uint64_t{gridDim.x} * per_block) {
    int64_t at[3];
    rows.offsets(static_cast<unsigned>(row), at);
    T* y = static_cast<T*>(rows.data[0]) + at[0];
    const T* x = static_cast<const T*>(rows.data[1]) + at[1];
    const auto low = cuda::load<V>(x + first);
    const auto high = cuda::load<V>(x + second);
    const int64_t position = static_cast<const int64_t*>(rows.data[2])[at[2]];
    if (position != known) {
      known = position;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        turn(static_cast<double>(position) * frequencies.value[group * V + v], &sine[v],
             &cosine[v]);
        sine[v] *= static_cast<C>(shape.sign);
      }
    }
    cuda::Vector<T, V> new_low, new_high;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      // Element e of low and high in a row: pair v is (2v, 2v + 1) or (v, V + v).
      const auto in = [&](int e) { return convert<C>(e < V ? low[e % V] : high[e % V]); };
      const auto out = [&](int e, C value) {
        (e < V ? new_low[e % V] : new_high[e % V]) = convert<T>(value);
      };
      if (shape.interleaved) {
        const C a = in(2 * v), b = in(2 * v + 1);
        out(2 * v, a * cosine[v] - b * sine[v]);
        out(2 * v + 1, b * cosine[v] + a * sine[v]);
      } else {
        const C a = in(v), b = in(V + v);
        out(v, a * cosine[v] - b * sine[v]);
        out(V + v, b * cosine[v] + a * sine[v]);
      }
    }
    cuda::store(y + first, new_low);
    cuda::store(y + second, new_high);
    if (shape.last) {
      for (int64_t c = 2 * shape.half + group; c < shape.size; c += groups) y[c] = x[c];
    }
  }
}

template <class T>
bool rows_are_aligned(const Tensor& x) {
  for (int64_t d = 0; d + 1 < x.rank(); ++d) {
    if (x.size(d) > 1 && !cuda::is_aligned(static_cast<const T*>(x.raw_data()), x.stride(d))) {
      return false;
    }
  }
  return cuda::is_aligned(static_cast<const T*>(x.raw_data()), 0);
}

// Blocks such that a sweep over them covers whole sequences: threads then keep their positions.
unsigned blocks_for_rows(int64_t rows, int64_t per_block, int64_t tokens, int64_t most) {
  const int64_t all = (rows + per_block - 1) / per_block;
  const int64_t sequence = tokens / std::gcd(tokens, per_block);  // blocks until positions repeat
  if (all <= most) return static_cast<unsigned>(all);
  return static_cast<unsigned>(sequence <= most ? most / sequence * sequence : most);
}

template <class T, int V>
void run(const Tensor& y, const Tensor& x, const Tensor& positions, RowShape shape,
         const std::vector<double>& frequencies) {
  const Tensor rows[] = {views::select(y, -1, 0), views::select(x, -1, 0), positions};
  const Tensor* operands[] = {&rows[0], &rows[1], &rows[2]};
  const int64_t most = 8 * int64_t{cuda::multiprocessors(x.device())};
  for_each_chunk(frequencies, [&](const Frequencies& chunk) {
    const int groups = chunk.count / V;
    const int per_block = kThreads / groups;
    shape.last = chunk.first + chunk.count == shape.half;
    cuda::for_each_launch<3>(rows[0].shape(), operands, 1, [&](const cuda::Strided<3>& s) {
      cuda::launch("rotary", x.device(), rotary_kernel<T, V>,
                   blocks_for_rows(s.count, per_block, x.size(-2), most), groups * per_block, 0, s,
                   shape, chunk);
    });
  });
}

}  // namespace

void turns_cuda(const Tensor& table, const Tensor& positions,
                const std::vector<double>& frequencies) {
  const auto half = static_cast<int64_t>(frequencies.size());
  cuda::visit_floating("rotary", table.dtype(), [&]<class T>() {
    for_each_chunk(frequencies, [&](const Frequencies& chunk) {
      cuda::launch("rotary", table.device(), turns_kernel<T>,
                   cuda::blocks_for(positions.numel() * chunk.count, kThreads), kThreads, 0,
                   cuda::data<T>(table), cuda::data<int64_t>(positions), positions.numel(), half,
                   chunk);
    });
  });
}

void rotary_cuda(const Tensor& y, const Tensor& x, const Tensor& positions,
                 const std::vector<double>& frequencies, bool interleaved, int sign) {
  if (x.numel() == 0) return;
  const auto half = static_cast<int64_t>(frequencies.size());
  const RowShape shape{half, x.size(-1), interleaved, false, sign};
  cuda::visit_floating("rotary", x.dtype(), [&]<class T>() {
    constexpr int V = cuda::kVectorSize<T>;
    if (half % V == 0 && rows_are_aligned<T>(x) && rows_are_aligned<T>(y)) {
      run<T, V>(y, x, positions, shape, frequencies);
    } else {
      run<T, 1>(y, x, positions, shape, frequencies);
    }
  });
}

}  // namespace tessera
