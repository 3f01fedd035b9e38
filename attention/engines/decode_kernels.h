// What the files of the decode engine on CUDA share: shapes, strides and the way to a key as
// kernels see them.
#pragma once

#include "tessera/attention/engines/decode_cuda.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/strided.h"

namespace tessera::decode {

// A (B, H, N, D) tensor with dense rows; strides in elements.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  Rows() = default;
  explicit Rows(const Tensor& x)
      : data(cuda::data<std::remove_const_t<T>>(x)),
        batch(x.stride(0)),
        head(x.stride(1)),
        row(x.stride(2)) {}
  TESSERA_HD T* at(int64_t b, int64_t h, int64_t i) const {
    return data + b * batch + h * head + i * row;
  }
};

// Where a key lies: (block, head, row) of the keys' tensor, the block being a sequence or a page.
struct Place {
  int block, row;
};

struct Sizes {
  int batch, heads, key_heads, group, queries, rows;  // rows: queries of the heads of a key head
  int width, value_width;
  int pieces;  // of the longest sequence, or more
  bool causal;
  double scale;
  const float* slopes;

  const int32_t *lengths, *added, *table, *list;  // each may be null
  int capacity;                                   // keys of a sequence
  int columns;                                    // of the table
  bool listed;
  int list_size;  // keys that a list can name
  int64_t list_batch, list_head, list_entry;
  cuda::Divider page, entry;  // keys per page, keys per entry of a list

#ifdef __CUDACC__
  __device__ int length(int b) const {
    return lengths == nullptr ? capacity : max(0, min(lengths[b], capacity));
  }
  __device__ int tokens(int b) const {
    return added == nullptr ? queries : max(0, min(added[b], queries));
  }
  // Keys of a sequence, or places of its list.
  __device__ int slots(int b) const {
    return listed ? list_size : length(b);
  }
  // The key in a place, −1 for none.
  __device__ int position(int b, int h, int slot, int length) const {
    if (!listed) return slot;
    const unsigned at = entry.divide(static_cast<unsigned>(slot));
    const int64_t value = list[b * list_batch + h * list_head + at * list_entry];
    const int64_t key = value * entry.divisor + (static_cast<unsigned>(slot) - at * entry.divisor);
    return value >= 0 && key < length ? static_cast<int>(key) : -1;
  }
  __device__ Place place(int b, int position) const {
    if (table == nullptr) return {b, position};
    const unsigned at = page.divide(static_cast<unsigned>(position));
    return {table[static_cast<int64_t>(b) * columns + at],
            position - static_cast<int>(at * page.divisor)};
  }
  // What a row of a key head's group is: its head, its query, its position and the first key it
  // does not see.
  struct Query {
    int head, query, position, seen;
  };
  __device__ Query query_of(int b, int key_head, int row, int length) const {
    const int i = row % queries, own = tokens(b), at = length - own + i;
    return {key_head * group + row / queries, i, at, i >= own ? 0 : causal ? at + 1 : length};
  }
#endif
};

Sizes sizes_of(const Problem& problem);
unsigned grid_of(int64_t blocks);

// Results of the pieces, normalised: outputs (B · Hk, pieces, rows, Dv) and logsumexps (B · Hk,
// pieces, rows), f32 for halves. Where a logsumexp is −inf the output is not written; neither is
// anything beyond a sequence's own pieces.
struct Parts {
  Tensor output, logsumexp;
};

// bf16 and f16 on tensor cores: keys and queries of one dtype, rows of at most 256 elements, a
// multiple of 8, 16-byte aligned. With one piece the results go to `result` and parts are not used.
void pieces_of_halves(const Sizes& s, const Problem& problem, const Parts& parts,
                      const AttentionResult& result);
// Whether the device has the shared memory for it.
bool halves_fit(const Problem& problem);

}  // namespace tessera::decode
