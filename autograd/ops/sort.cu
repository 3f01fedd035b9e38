#include <tuple>

#include "tessera/autograd/ops/elements_cuda.h"
#include "tessera/autograd/ops/sort_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index_cuda.h"
#include "tessera/core/view.h"

namespace tessera::detail {
namespace {

constexpr int64_t kThreads = 256;
constexpr int64_t kShortRow = 2048;
constexpr int64_t kBatch = int64_t{1} << 27;  // entries sorted at once: bounds the memory

struct Wanted {
  int64_t* index = nullptr;  // (R, count)
  int64_t rows = 0;
  int64_t size = 0;
  int64_t first = 0;
  int64_t count = 0;
  bool descending = false;
};

__device__ uint64_t sort_key(const Elements& x, int64_t i, bool descending) {
  return descending ? x.reversed_key(i, false) : x.key(i);
}

// Bitonic sort of whole rows in shared memory (Batcher 1968): `padded`, a power of two from the
// size up, entries per row and two per thread. No two entries are equal, so it is stable.
__global__ void sort_short_rows(Elements x, Wanted wanted, int padded) {
  extern __shared__ uint64_t keys[];
  const int entries = static_cast<int>(blockDim.x) * 2;
  auto* places = reinterpret_cast<int*>(keys + entries);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * (entries / padded);
  for (int e = static_cast<int>(threadIdx.x); e < entries; e += static_cast<int>(blockDim.x)) {
    const int64_t row = first_row + e / padded;
    const int place = e % padded;
    const bool real = row < wanted.rows && place < wanted.size;
    keys[e] = real ? sort_key(x, row * wanted.size + place, wanted.descending) : ~uint64_t{0};
    places[e] = place;  // fillers come after what is as great
  }
  for (int length = 2; length <= padded; length *= 2) {
    for (int step = length / 2; step > 0; step /= 2) {
      __syncthreads();
      const int a =
          2 * static_cast<int>(threadIdx.x) - (static_cast<int>(threadIdx.x) & (step - 1));
      const int b = a + step;
      const bool ascending = (a & (padded - 1) & length) == 0;
      const uint64_t left = keys[a], right = keys[b];
      const int left_place = places[a], right_place = places[b];
      const bool after = left > right || (left == right && left_place > right_place);
      if (after == ascending) {
        keys[a] = right;
        keys[b] = left;
        places[a] = right_place;
        places[b] = left_place;
      }
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < entries; e += static_cast<int>(blockDim.x)) {
    const int64_t row = first_row + e / padded;
    const int64_t at = e % padded - wanted.first;
    if (row < wanted.rows && at >= 0 && at < wanted.count) {
      wanted.index[row * wanted.count + at] = places[e];
    }
  }
}

// Keys of a batch of rows from `begin` on; short ones carry their row above them.
__global__ void key_kernel(int64_t* keys, unsigned* places, Elements x, Wanted wanted,
                           int64_t begin, int64_t total) {
  const bool wide = x.top() >> 32 != 0;
  for (int64_t k = cuda::thread_index(); k < total; k += cuda::thread_count()) {
    const uint64_t key = sort_key(x, begin * wanted.size + k, wanted.descending);
    const auto row = static_cast<uint64_t>(k / wanted.size);
    keys[k] = static_cast<int64_t>(wide ? key : row << 32 | key);
    places[k] = static_cast<unsigned>(k);
  }
}

__global__ void row_kernel(int64_t* keys, const unsigned* places, int64_t size, int64_t total) {
  for (int64_t k = cuda::thread_index(); k < total; k += cuda::thread_count()) {
    keys[k] = places[k] / size;
  }
}

__global__ void index_kernel(Wanted wanted, const unsigned* places, int64_t begin, int64_t rows) {
  for (int64_t k = cuda::thread_index(); k < rows * wanted.count; k += cuda::thread_count()) {
    const int64_t row = k / wanted.count, at = row * wanted.size;
    wanted.index[begin * wanted.count + k] =
        static_cast<int64_t>(places[at + wanted.first + (k - row * wanted.count)]) - at;
  }
}

// Radix sort of all entries of a batch together, in the order of (row, key).
void sort_batch(const Tensor& x, const Wanted& wanted, int64_t begin, int64_t rows) {
  const Elements elements(x);
  const int64_t total = rows * wanted.size;
  const unsigned blocks = cuda::blocks_for(total, kThreads);
  const Device device = x.device();
  Tensor keys = empty({total}, {DType::i64, device});
  Tensor places = empty({total}, {DType::i32, device});
  const auto start = [](const Tensor& t) { return static_cast<unsigned*>(t.raw_data()); };
  cuda::launch("sort", device, key_kernel, blocks, kThreads, 0, cuda::data<int64_t>(keys),
               start(places), elements, wanted, begin, total);
  const int row_bits = rows == 1 ? 0 : kernels::bits_below(rows);
  std::tie(keys, places) =
      kernels::sort_pairs_cuda("sort", keys, places, elements.wide() ? 64 : 32 + row_bits);
  if (elements.wide() && rows > 1) {
    cuda::launch("sort", device, row_kernel, blocks, kThreads, 0, cuda::data<int64_t>(keys),
                 start(places), wanted.size, total);
    std::tie(keys, places) = kernels::sort_pairs_cuda("sort", keys, places, row_bits);
  }
  cuda::launch("sort", device, index_kernel, cuda::blocks_for(rows * wanted.count, kThreads),
               kThreads, 0, wanted, start(places), begin, rows);
}

}  // namespace

Tensor order_rows_cuda(const Tensor& x, int64_t first, int64_t count, bool descending) {
  const Tensor from = kernels::contiguous(x);
  const Tensor index = empty({x.size(0), count}, {DType::i64, x.device()});
  if (index.numel() == 0) return index;
  const Wanted wanted{cuda::data<int64_t>(index), x.size(0), x.size(1), first, count, descending};
  if (wanted.size <= kShortRow) {
    int64_t padded = 2;
    while (padded < wanted.size) padded *= 2;
    const int64_t rows = std::max<int64_t>(1, 2 * kThreads / padded);
    const auto entries = static_cast<size_t>(rows * padded);
    cuda::launch("sort", x.device(), sort_short_rows,
                 static_cast<unsigned>((wanted.rows + rows - 1) / rows),
                 static_cast<unsigned>(entries / 2), entries * (sizeof(uint64_t) + sizeof(int)),
                 Elements(from), wanted, padded);
    return index;
  }
  const int64_t rows = std::max<int64_t>(1, kBatch / wanted.size);
  for (int64_t begin = 0; begin < wanted.rows; begin += rows) {
    sort_batch(from, wanted, begin, std::min(rows, wanted.rows - begin));
  }
  return index;
}

}  // namespace tessera::detail
