#include "tessera/attention/engines/engine.h"
#include "tessera/attention/kv_cache_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/strided.h"

namespace tessera {
namespace {

constexpr unsigned kThreads = 256;

// A (B, H, N, D) tensor in pieces of P; strides in pieces.
template <class P>
struct Rows {
  P* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
  int width = 0;  // pieces of a row

  Rows() = default;
  explicit Rows(const Tensor& x) {
    const auto bytes = static_cast<int64_t>(size_of(x.dtype()));
    auto pieces = [&](int64_t elements) {
      return elements * bytes / static_cast<int64_t>(sizeof(P));
    };
    data = static_cast<P*>(x.raw_data());
    batch = pieces(x.stride(0));
    head = pieces(x.stride(1));
    row = pieces(x.stride(2));
    width = static_cast<int>(pieces(x.size(3)));
  }
  __device__ P* at(int64_t b, int64_t h, int64_t i) const {
    return data + b * batch + h * head + i * row;
  }
};

template <class P>
struct Append {
  Rows<const P> key, value;  // new ones
  Rows<P> key_store, value_store;
  int32_t* lengths;
  const int32_t* counts;  // null: all
  const int32_t* table;   // null: contiguous
  cuda::Divider page;
  int columns;  // of the table
  int heads, tokens, capacity;
};

// Tokens of sequence b at `position` on.
template <class P>
__device__ void copy_rows(const Append<P>& a, const Rows<const P>& from, const Rows<P>& to, int b,
                          int position, int count) {
  const int64_t total = static_cast<int64_t>(count) * a.heads * from.width;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < total;
       e += step) {
    const int d = static_cast<int>(e % from.width);
    const int h = static_cast<int>(e / from.width % a.heads);
    const int t = static_cast<int>(e / from.width / a.heads);
    int row = position + t;
    if (row >= a.capacity) return;
    int64_t place = b;
    if (a.table != nullptr) {
      const unsigned page = a.page.divide(static_cast<unsigned>(row));
      place = a.table[static_cast<int64_t>(b) * a.columns + page];
      row -= static_cast<int>(page * a.page.divisor);
    }
    to.at(place, h, row)[d] = from.at(b, h, t)[d];
  }
}

__global__ void advance_kernel(int32_t* lengths, const int32_t* counts, int tokens, int batch) {
  const auto b = static_cast<int>(cuda::thread_index());
  if (b < batch) lengths[b] += counts != nullptr ? counts[b] : tokens;
}

// A row of blocks per sequence; when that is one block, it advances the length too.
template <class P>
__global__ void __launch_bounds__(kThreads) append_kernel(Append<P> a) {
  const auto b = static_cast<int>(blockIdx.y);
  const int position = a.lengths[b];
  const int count = a.counts != nullptr ? a.counts[b] : a.tokens;
  copy_rows(a, a.key, a.key_store, b, position, count);
  if (a.value.data != nullptr) copy_rows(a, a.value, a.value_store, b, position, count);
  if (gridDim.x > 1) return;
  __syncthreads();
  if (threadIdx.x == 0) a.lengths[b] = position + count;
}

template <class P>
void append(const CacheView& cache, const Tensor& key, const Tensor& value, int64_t capacity) {
  Append<P> a{};
  a.key = Rows<const P>(key);
  a.key_store = Rows<P>(cache.key);
  if (value.defined()) {
    a.value = Rows<const P>(value);
    a.value_store = Rows<P>(cache.value);
  }
  a.lengths = cuda::data<int32_t>(cache.lengths);
  a.counts = cache.added.defined() ? cuda::data<int32_t>(cache.added) : nullptr;
  if (cache.table.defined()) {
    a.table = cuda::data<int32_t>(cache.table);
    a.page = cuda::Divider(static_cast<unsigned>(cache.key.size(2)));
    a.columns = static_cast<int>(cache.table.size(1));
  }
  a.heads = static_cast<int>(key.size(1));
  a.tokens = static_cast<int>(key.size(2));
  a.capacity = static_cast<int>(capacity);
  const auto batch = static_cast<unsigned>(key.size(0));
  const int64_t pieces = key.size(1) * key.size(2) * std::max(a.key.width, a.value.width);
  const unsigned blocks = std::max(1u, cuda::blocks_for(pieces, 4 * kThreads, 64));
  cuda::launch("kv_cache", key.device(), append_kernel<P>, dim3(blocks, batch), kThreads, 0, a);
  if (blocks > 1) {
    cuda::launch("kv_cache", key.device(), advance_kernel, cuda::blocks_for(batch, kThreads),
                 kThreads, 0, a.lengths, a.counts, a.tokens, static_cast<int>(batch));
  }
}

bool in_vectors(const Tensor& x) {
  if (!x.defined()) return true;
  const int64_t bytes = size_of(x.dtype());
  bool fits = reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0 && x.size(3) * bytes % 16 == 0;
  for (int64_t d = 0; d < 3; ++d) {
    fits = fits && (x.size(d) <= 1 || x.stride(d) * bytes % 16 == 0);
  }
  return fits;
}

}  // namespace

void append_cuda(const CacheView& cache, const Tensor& key, const Tensor& value, int64_t capacity) {
  check(key.size(0) < 65536, "kv_cache: {} sequences are more than CUDA takes", key.size(0));
  const Tensor k = engine::with_dense_rows(key);
  const Tensor v = value.defined() ? engine::with_dense_rows(value) : value;
  if (in_vectors(k) && in_vectors(v) && in_vectors(cache.key) && in_vectors(cache.value)) {
    return append<uint4>(cache, k, v, capacity);
  }
  switch (size_of(k.dtype())) {
    case 2:
      return append<uint16_t>(cache, k, v, capacity);
    case 4:
      return append<uint32_t>(cache, k, v, capacity);
    default:
      return append<uint64_t>(cache, k, v, capacity);
  }
}

}  // namespace tessera
