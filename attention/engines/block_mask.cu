#include "tessera/attention/engines/block_mask_cuda.h"
#include "tessera/attention/engines/engine_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {
namespace {

constexpr unsigned kThreads = 256;

// Bytes of a (B, H, R, C) tensor of any strides.
struct Bytes {
  const uint8_t* data;
  int64_t heads, rows, columns;
  int64_t batch_step, head_step, row_step, column_step;

  explicit Bytes(const Tensor& x)
      : data(static_cast<const uint8_t*>(x.raw_data())),
        heads(x.size(1)),
        rows(x.size(2)),
        columns(x.size(3)),
        batch_step(x.stride(0)),
        head_step(x.stride(1)),
        row_step(x.stride(2)),
        column_step(x.stride(3)) {}

  // Row t of all, counted over batches and heads.
  __device__ const uint8_t* row(int64_t t) const {
    const int64_t head = t / rows;
    return data + head / heads * batch_step + head % heads * head_step + t % rows * row_step;
  }
};

__global__ void classify_kernel(uint8_t* map, Bytes active, BlockBounds bounds, int64_t count) {
  for (int64_t at = cuda::thread_index(); at < count; at += cuda::thread_count()) {
    const int64_t t = at / active.columns, j = at % active.columns;
    const bool there = active.row(t)[j * active.column_step] != 0;
    const BlockKind kind = there ? bounds.kind(t % active.rows, j) : BlockKind::hidden;
    map[at] = static_cast<uint8_t>(kind);
  }
}

// Appends the columns of one kind to a list of `total`; every lane of a warp takes part.
__device__ inline int append(int32_t* list, int total, int capacity, const uint8_t* row,
                             const Bytes& map, BlockKind kind) {
  const auto lane = static_cast<int64_t>(threadIdx.x % cuda::kWarp);
  for (int64_t first = 0; first < map.columns; first += cuda::kWarp) {
    const int64_t j = first + lane;
    const bool mine = j < map.columns && row[j * map.column_step] == static_cast<uint8_t>(kind);
    const unsigned all = __ballot_sync(cuda::kAllLanes, mine);
    const int place = total + __popc(all & ((1u << lane) - 1));
    if (mine && place < capacity) list[place] = static_cast<int32_t>(j);
    total += __popc(all);
  }
  return total;
}

// A warp per row.
__global__ void compact_kernel(int32_t* counts, int32_t* index, int32_t* overflow, Bytes map,
                               int64_t rows, int capacity) {
  const int64_t t = cuda::thread_index() / cuda::kWarp;
  if (t >= rows) return;
  const uint8_t* row = map.row(t);
  int32_t* list = index + t * capacity;
  const int partial = append(list, 0, capacity, row, map, BlockKind::partial);
  const int total = append(list, partial, capacity, row, map, BlockKind::full);
  if (threadIdx.x % cuda::kWarp != 0) return;
  counts[2 * t] = min(partial, capacity);
  counts[2 * t + 1] = min(total, capacity) - min(partial, capacity);
  if (total > capacity) *overflow = 1;
}

__global__ void count_kernel(unsigned long long* counter, const uint8_t* map, int64_t count,
                             int64_t rows, int64_t columns, BlockBounds bounds, int64_t times) {
  __shared__ int64_t scratch[kThreads / cuda::kWarp];
  int64_t entries = 0;
  for (int64_t at = cuda::thread_index(); at < count; at += cuda::thread_count()) {
    if (map[at] != 0) entries += bounds.entries(at / columns % rows, at % columns);
  }
  entries = cuda::block_reduce(entries, cuda::Sum(), int64_t{0}, scratch);
  if (threadIdx.x == 0 && entries > 0) {
    atomicAdd(counter, static_cast<unsigned long long>(entries * times));
  }
}

}  // namespace

void classify_blocks_cuda(const Tensor& map, const Tensor& active, const BlockBounds& bounds) {
  const int64_t count = map.numel();
  cuda::launch("block_mask", map.device(), classify_kernel, cuda::blocks_for(count, kThreads),
               kThreads, 0, cuda::data<uint8_t>(map), Bytes(active), bounds, count);
}

void compact_blocks_cuda(const BlockLists& lists, const Tensor& map, const Tensor& overflow) {
  const int64_t rows = map.size(0) * map.size(1) * map.size(2);
  const int64_t warps = kThreads / cuda::kWarp, blocks = (rows + warps - 1) / warps;
  check(blocks < int64_t{1} << 31, "block_mask: {} lists are more than a launch takes", rows);
  cuda::launch("block_mask", map.device(), compact_kernel, static_cast<unsigned>(blocks), kThreads,
               0, cuda::data<int32_t>(lists.counts), cuda::data<int32_t>(lists.index),
               cuda::data<int32_t>(overflow), Bytes(map), rows,
               static_cast<int>(lists.index.size(3)));
}

void count_blocks_cuda(const Tensor& map, const BlockBounds& bounds, int64_t times) {
  const int64_t count = map.numel();
  cuda::launch("block_mask", map.device(), count_kernel, cuda::blocks_for(count, kThreads),
               kThreads, 0, engine::entry_counter(map.device()), cuda::data<uint8_t>(map), count,
               map.size(2), map.size(3), bounds, times);
}

}  // namespace tessera
