#include "tessera/autograd/ops/embedding_cuda.h"
#include "tessera/autograd/ops/softmax_rows_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/index_cuda.h"

namespace tessera {
namespace {

constexpr std::string_view kName = "embedding";
constexpr int kItem = 32;  // sorted places that a block adds up
constexpr int kAhead = 8;  // rows in flight

// A warp copies a row.
template <class T, int V>
__global__ void rows_kernel(const T* table, const int64_t* ids, T* y, int64_t count, int64_t d,
                            int64_t classes) {
  const int64_t row = cuda::row_of_thread();
  if (row >= count) return;
  const T* from = table + cuda::checked_index("embedding", ids[row], classes) * d;
  T* to = y + row * d;
  cuda::for_each_piece<T, V>(
      from, d, [&](int64_t i, const cuda::Vector<T, V>& piece) { cuda::store(to + i, piece); });
}

__global__ void places_kernel(const int64_t* ids, int64_t* keys, int* positions, int64_t count,
                              int64_t classes) {
  for (int64_t i = cuda::thread_index(); i < count; i += cuda::thread_count()) {
    keys[i] = cuda::checked_index("embedding", ids[i], classes);
    positions[i] = static_cast<int>(i);
  }
}

// Places sorted by id. A run is what lies together of one id; one that crosses the end of an item
// leaves its parts, per item one that came from before and one that goes on, in `parts`
// (items, 2, d), and finish_kernel adds those in order.
template <class T>
struct Places {
  const int64_t* keys;
  const unsigned* positions;
  int64_t count;
  const T* g;
  T* sum;
  cuda::Compute<T>* parts;
  int64_t d;
};

template <class T, int V>
using Sums = cuda::Vector<cuda::Compute<T>, V>;

template <class T, int V>
__device__ void add_to(T* address, const Sums<T, V>& total) {
  using C = cuda::Compute<T>;
  auto piece = cuda::load<V>(address);
#pragma unroll
  for (int k = 0; k < V; ++k) piece[k] = convert<T>(convert<C>(piece[k]) + total[k]);
  cuda::store(address, piece);
}

// Block (item, piece of the columns); a thread owns V columns.
template <class T, int V>
__global__ void runs_kernel(Places<T> p) {
  using C = cuda::Compute<T>;
  __shared__ int64_t key[kItem + 2];  // with the neighbours on both sides, −1 where there is none
  __shared__ unsigned position[kItem];
  const int64_t item = blockIdx.x;
  const int64_t begin = item * kItem;
  const int size = static_cast<int>(min(static_cast<int64_t>(kItem), p.count - begin));
  for (int i = static_cast<int>(threadIdx.x); i < size + 2; i += static_cast<int>(blockDim.x)) {
    const int64_t at = begin + i - 1;
    key[i] = at >= 0 && at < p.count ? p.keys[at] : -1;
    if (i < size) position[i] = p.positions[begin + i];
  }
  __syncthreads();
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  if (column >= p.d) return;
  Sums<T, V> total = {};
  bool from_before = key[0] == key[1];
  for (int first = 0; first < size; first += kAhead) {
    cuda::Vector<T, V> row[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k < size) row[k] = cuda::load<V>(p.g + position[first + k] * p.d + column);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = first + k;
      if (i >= size) break;
#pragma unroll
      for (int v = 0; v < V; ++v) total[v] += convert<C>(row[k][v]);
      const bool ends = key[i + 2] != key[i + 1];
      if (!ends && i + 1 < size) continue;
      if (from_before || !ends) {
        cuda::store(p.parts + (2 * item + (from_before ? 0 : 1)) * p.d + column, total);
      } else {
        add_to<T, V>(p.sum + key[i + 1] * p.d + column, total);
      }
      total = {};
      from_before = false;
    }
  }
}

// The block of the item in which a crossing run begins adds up its parts.
template <class T, int V>
__global__ void finish_kernel(Places<T> p) {
  const int64_t item = blockIdx.x;
  const int64_t last = (item + 1) * kItem - 1;  // this item's last place
  if (last + 1 >= p.count) return;
  const int64_t key = p.keys[last];
  if (p.keys[last + 1] != key) return;
  const int64_t first = item * kItem;
  if (first > 0 && p.keys[first] == key && p.keys[first - 1] == key) return;  // began earlier
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  if (column >= p.d) return;
  Sums<T, V> total = cuda::load<V>(p.parts + (2 * item + 1) * p.d + column);
#pragma unroll 4
  for (int64_t next = item + 1; next * kItem < p.count && p.keys[next * kItem] == key; ++next) {
    const Sums<T, V> part = cuda::load<V>(p.parts + 2 * next * p.d + column);
#pragma unroll
    for (int v = 0; v < V; ++v) total[v] += part[v];
  }
  add_to<T, V>(p.sum + key * p.d + column, total);
}

}  // namespace

Tensor embedding_cuda(const Tensor& table, const Tensor& ids) {
  const int64_t count = ids.numel(), d = table.size(1);
  const Tensor y = empty({count, d}, {table.dtype(), table.device()});
  if (y.numel() == 0) return y;
  visit_dtype(table.dtype(), [&]<class T>() {
    const T* from = cuda::data<T>(table);
    T* to = cuda::data<T>(y);
    cuda::visit_width<T>(d, {from, to}, [&]<int V>() {
      cuda::launch(kName, table.device(), rows_kernel<T, V>, static_cast<unsigned>((count + 7) / 8),
                   dim3(cuda::kWarp, 8), 0, from, cuda::data<int64_t>(ids), to, count, d,
                   table.size(0));
    });
  });
  return y;
}

void embedding_backward_cuda(const Tensor& sum, const Tensor& ids, const Tensor& g) {
  const int64_t count = ids.numel(), d = sum.size(1), classes = sum.size(0);
  if (g.numel() == 0) return;
  const Device device = sum.device();
  const Tensor keys = empty({count}, {DType::i64, device});
  const Tensor positions = empty({count}, {DType::i32, device});
  cuda::launch(kName, device, places_kernel, cuda::blocks_for(count, 256), 256, 0,
               cuda::data<int64_t>(ids), cuda::data<int64_t>(keys), cuda::data<int>(positions),
               count, classes);
  const auto [sorted, order] =
      kernels::sort_pairs_cuda(kName, keys, positions, kernels::bits_below(classes));
  const int64_t items = (count + kItem - 1) / kItem;
  const DType wide = sum.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor parts = empty({items, 2, d}, {wide, device});
  cuda::visit_floating(kName, sum.dtype(), [&]<class T>() {
    const Places<T> p{cuda::data<int64_t>(sorted),
                      static_cast<const unsigned*>(order.raw_data()),
                      count,
                      cuda::data<T>(g),
                      cuda::data<T>(sum),
                      cuda::data<cuda::Compute<T>>(parts),
                      d};
    cuda::visit_width<T>(d, {p.g, p.sum}, [&]<int V>() {
      const int64_t pieces = d / V;
      const int64_t threads = std::min<int64_t>(256, (pieces + 31) / 32 * 32);
      const dim3 grid(static_cast<unsigned>(items),
                      static_cast<unsigned>((pieces + threads - 1) / threads));
      const dim3 block(static_cast<unsigned>(threads));
      cuda::launch(kName, device, runs_kernel<T, V>, grid, block, 0, p);
      cuda::launch(kName, device, finish_kernel<T, V>, grid, block, 0, p);
    });
  });
}

}  // namespace tessera
