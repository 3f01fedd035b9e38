// Which tiles of the other side a block of the kernels in halves meets, and which entries of them
// count. Own rows are the rows that the block keeps: queries that meet keys, or keys that meet
// queries.
#pragma once

#include "tessera/attention/engines/block_mask.h"
#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/attention/engines/entry_rule.h"

namespace tessera::dense {

// query − key of the entries that count.
struct Offsets {
  int first, last;
};

// Everything up to the causal bound: dense attention.
struct AllTiles {
  static constexpr bool kWindow = false;

  __device__ IndexRange keys_of(const Sizes& s, int query) const { return {0, s.visible(query)}; }
  __device__ IndexRange queries_of(const Sizes& s, int key) const {
    return {key < s.keys ? s.first_query(key) : s.queries, s.queries};
  }
  __device__ Offsets offsets(const Sizes&) const { return {0, 0}; }  // not asked for

  // Tiles of kStep keys for the queries [begin, end).
  template <int kStep>
  struct Keys {
    int count;
    __device__ Keys(const AllTiles&, const Sizes& s, int, int, int, int end)
        : count((s.visible(end - 1) + kStep - 1) / kStep) {}
    __device__ int operator()(int j) const { return j * kStep; }
  };

  // Tiles of kStep queries for the keys [begin, end), head after head of the group.
  template <int kStep>
  struct Queries {
    int first, count, head, query;
    __device__ Queries(const AllTiles&, const Sizes& s, int, int key_head, int begin, int)
        : first(s.first_query(begin) / kStep * kStep), head(key_head * s.group), query(first) {
      count = s.group * (first < s.queries ? (s.queries - first + kStep - 1) / kStep : 0);
    }
    __device__ void advance(const AllTiles&, const Sizes& s) {
      query += kStep;
      if (query < s.queries) return;
      query = first;
      ++head;
    }
  };
};

// What a window lets, in tiles in order or those of lists.
struct SparseTiles {
  static constexpr bool kWindow = true;
  static constexpr int kFar = 1 << 30;  // farther than any two tokens are apart
  int left = INT_MAX, right = INT_MAX;  // key position − query position is in [−left, right]
  BlockRows lists;                      // of the own side; none: all tiles that the window touches
  int own_block = 0, other_block = 0;   // rows are powers of two: 2^own_block, 2^other_block

  __device__ IndexRange keys_of(const Sizes& s, int query) const {
    const int position = query + s.keys - s.queries;
    return {left == INT_MAX ? 0 : max(0, position - left),
            right == INT_MAX ? s.keys : max(0, min(s.keys, position + right + 1))};
  }
  __device__ Offsets offsets(const Sizes& s) const {
    const int ahead = s.keys - s.queries;
    return {right == INT_MAX ? -kFar : -right - ahead, left == INT_MAX ? kFar : left - ahead};
  }
  // Not clipped to the queries that there are; nobody sees keys that there are not.
  __device__ IndexRange queries_of(const Sizes& s, int key) const {
    if (key >= s.keys) return {kFar, kFar};
    const Offsets reach = offsets(s);
    return {key + reach.first, key + reach.last + 1};
  }
  __device__ bool has_lists() const { return lists.counts != nullptr; }

  // Rows of the j-th tile of kStep rows in a list.
  template <int kStep>
  __device__ int listed(const int32_t* list, int j) const {
    const int per_block = (1 << other_block) / kStep;  // a power of two too
    return (list[j / per_block] << other_block) + j % per_block * kStep;
  }
  template <int kStep>
  __device__ int tiles_of(const BlockRow& row) const {
    return row.count * ((1 << other_block) / kStep);
  }

  template <int kStep>
  struct Keys {
    const SparseTiles& source;
    const int32_t* list = nullptr;
    int first = 0, count = 0;
    __device__ Keys(const SparseTiles& tiles, const Sizes& s, int b, int h, int begin, int end)
        : source(tiles) {
      if (tiles.has_lists()) {
        const BlockRow row = tiles.lists.row(b, h, begin >> tiles.own_block);
        list = row.index;
        count = tiles.template tiles_of<kStep>(row);
      } else {
        first = tiles.keys_of(s, begin).begin / kStep;
        count = max(0, (tiles.keys_of(s, end - 1).end + kStep - 1) / kStep - first);
      }
    }
    __device__ int operator()(int j) const {
      return list != nullptr ? source.template listed<kStep>(list, j) : (first + j) * kStep;
    }
  };

  template <int kStep>
  struct Queries {
    const int32_t* list = nullptr;
    int first = 0, here = 0;  // first tile; tiles of this head
    int count = 0, head, query = 0;
    int b, block, last_head, at = 0;

    __device__ Queries(const SparseTiles& tiles, const Sizes& s, int b_, int key_head, int begin,
                       int end)
        : head(key_head * s.group),
          b(b_),
          block(begin >> tiles.own_block),
          last_head((key_head + 1) * s.group - 1) {
      if (tiles.has_lists()) {
        for (int h = head; h <= last_head; ++h) {
          count += tiles.template tiles_of<kStep>(tiles.lists.row(b, h, block));
        }
        enter(tiles);
      } else {
        const Offsets reach = tiles.offsets(s);
        first = max(0, begin + reach.first) / kStep;
        const int stop = max(0, min(s.queries, end + reach.last));
        here = max(0, (stop + kStep - 1) / kStep - first);
        count = here * s.group;
      }
      place(tiles);
    }
    __device__ void advance(const SparseTiles& tiles, const Sizes&) {
      if (++at >= here && head < last_head) {
        ++head;
        at = 0;
        if (tiles.has_lists()) enter(tiles);
      }
      place(tiles);
    }

   private:
    // The list of this head, or of the next one that has any.
    __device__ void enter(const SparseTiles& tiles) {
      for (;; ++head) {
        const BlockRow row = tiles.lists.row(b, head, block);
        list = row.index;
        here = tiles.template tiles_of<kStep>(row);
        if (here > 0 || head == last_head) return;
      }
    }
    __device__ void place(const SparseTiles& tiles) {
      if (at >= here) return;  // the last has been
      query = list != nullptr ? tiles.template listed<kStep>(list, at) : (first + at) * kStep;
    }
  };
};

// The kernels with these tiles. Blocks of lists have 64 rows or a larger power of two.
void forward_sparse(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& out, const Tensor& lse);
void backward_sparse(const Sizes& s, const SparseTiles& keys, const SparseTiles& queries,
                     const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                     const Tensor& lse, const Tensor& grad_out, const Tensor& grad_lse,
                     const DenseGradients& grads);

// The same with Hopper's instructions: windows, and lists of blocks of 128 by 128, where the device
// and the build have them and heads are of at most 128 elements.
bool sparse_fits_hopper(const Sizes& s, const SparseTiles& keys, const TensorList& tensors);
void forward_sparse_hopper(const Sizes& s, const SparseTiles& keys, const Tensor& q,
                           const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse);
void backward_sparse_hopper(const Sizes& s, const SparseTiles& keys, const SparseTiles& queries,
                            const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                            const Tensor& lse, const Tensor& grad_out, const Tensor& grad_lse,
                            const DenseGradients& grads);

}  // namespace tessera::dense
