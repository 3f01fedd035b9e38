// Groups of halves on tensor cores: what the forward and the backward share. Rows come into tiles
// of shared memory by their index, from where they lie.
#pragma once

#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/gather_kernels.h"

namespace tessera::lists {

constexpr int kWarps = 4, kThreads = kWarps * 32;

template <int kWidth_, int kRowTiles_, int kOthers_>
struct TileShape {
  static constexpr int kWidth = kWidth_, kRowTiles = kRowTiles_, kOthers = kOthers_;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr unsigned kRowStep = 16 * kWidth * 2;
  static constexpr unsigned kOwnBytes = dense::kTileBytes<kRows, kWidth>;
  static constexpr unsigned kOtherBytes = dense::kTileBytes<kOthers, kWidth>;
};

// What decides which entries of a row or column count: an index, and for queries the keys that it
// may see.
struct Facts {
  int id, begin, end;
};

template <class T>
__device__ inline Facts query_facts(const Problem<T>& p, int b, int h, int query) {
  if (query < 0) return {-1, 0, 0};
  const IndexRange r = p.rule.keys_of(b, h, query);
  return {query, r.begin, r.end};
}

template <class T>
__device__ inline bool counts(const Problem<T>& p, int b, int h, const Facts& query, int key) {
  return key >= query.begin && key < query.end &&
         (p.rule.is_range() || p.rule.visible(b, h, query.id, key));
}

// A group: which, and where its slots and keys begin in the head.
struct Group {
  int tile, group, h, b;
};
template <class T>
__device__ inline Group group_of(const Problem<T>& p, int block, int tiles) {
  const int g = block / tiles, head = g / p.keys.groups;
  return {block % tiles, g % p.keys.groups, head % p.heads, head / p.heads};
}

// Copies listed rows of a head into a tile: each thread always the same chunk of rows kStep apart.
// Indices are read one tile ahead.
template <class T, int kRows, int kWidth>
struct ListCopy {
  static constexpr int kChunks = kWidth / 8, kStep = kThreads / kChunks, kEach = kRows / kStep;
  static_assert(kRows % kStep == 0);

  const int32_t* list;
  int count, size;  // of the list; indices are below `size`
  int ids[kEach];

  __device__ static int row(int i) { return static_cast<int>(threadIdx.x) / kChunks + i * kStep; }
  __device__ static int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }

  __device__ void read(int begin) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = begin + row(i);
      ids[i] = at < count ? Problem<T>::checked(list[at], size) : -1;
    }
  }
  __device__ bool has_nobody() const {
    bool found = false;
#pragma unroll
    for (int i = 0; i < kEach; ++i) found = found || ids[i] < 0;
    return found;
  }
  __device__ void copy(unsigned tile, const T* data, int64_t stride, int width) const {
    const bool inside = chunk() * 8 < width;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool there = inside && ids[i] >= 0;
      cuda::copy_async(tile + dense::chunk_offset<kWidth>(row(i), chunk()),
                       there ? data + ids[i] * stride + chunk() * 8 : data, there);
    }
  }
  // Rows begin … of slots, zeros where nobody is.
  __device__ void copy_slots(unsigned tile, const T* data, int64_t stride, int width,
                             int begin) const {
    const bool inside = chunk() * 8 < width;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool there = inside && ids[i] >= 0;
      cuda::copy_async(tile + dense::chunk_offset<kWidth>(row(i), chunk()),
                       there ? data + (begin + row(i)) * stride + chunk() * 8 : data, there);
    }
  }
};

// Whether groups of this shape run on tensor cores.
bool on_tiles(const Tensor& q, const Tensor& v, const Tensor& query_lists,
              const AttentionOptions& options);

void attend_tiles(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                  const Tensor& key_lists, const AttentionOptions& options,
                  const AttentionResult& to);
// Gradients of slots: queries (B, H, G · Wq, ·), keys and values (B, H, G · Wk, ·).
void backward_tiles(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                    const Tensor& key_lists, const AttentionOptions& options,
                    const AttentionResult& forward, const Tensor& grad_out, const Tensor& grad_lse,
                    const Gradients& to);

}  // namespace tessera::lists
