// What the kernels of the neighborhood engine share. A block owns a box of tokens of one side and
// walks over the smallest box of the other side that they meet, kOthers tokens at a time in
// row-major order. Where a token stands in a box is one word with a field for every axis, so that
// whether a key lies in a window is two subtractions. Fields count from 1; 0 is before everything.
#pragma once

#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/neighborhood_cuda.h"

namespace tessera::neighborhood {

using dense::Heads;

constexpr int kRows = 128;   // tokens of a block's own side
constexpr int kOthers = 64;  // tokens of the other side at a time

// Places of all axes in one word; above every field there is a guard bit, which a subtraction
// clears when the field borrows.
struct Fields {
  int shift[kAxes] = {};
  unsigned limit[kAxes] = {};     // the largest value of a field
  unsigned guards = 0, most = 0;  // all guard bits; all fields at their largest

  // Fields for boxes of at most these lengths; false if they do not fit.
  bool fit(const int (&lengths)[kAxes]) {
    int used = 0;
    for (int a = kAxes - 1; a >= 0; --a) {
      int bits = 1;
      while (bits < 32 && (int64_t{1} << bits) < int64_t{lengths[a]} + 2) ++bits;
      if (used + bits + 1 > 32) return false;
      shift[a] = used;
      limit[a] = (1u << bits) - 1;
      guards |= 1u << (used + bits);
      most |= limit[a] << used;
      used += bits + 1;
    }
    return true;
  }
  __device__ unsigned pack(int axis, int place) const {
    return static_cast<unsigned>(place) << shift[axis];
  }
  __device__ unsigned field(unsigned word, int axis) const {
    return word >> shift[axis] & limit[axis];
  }
  // a ≤ b and c ≤ d on every axis.
  __device__ bool ordered(unsigned a, unsigned b, unsigned c, unsigned d) const {
    return (((b | guards) - a) & ((d | guards) - c) & guards) == guards;
  }
  __device__ bool between(unsigned low, unsigned x, unsigned high) const {
    return ordered(low, x, x, high);
  }
  // The least and the greatest of a warp's words, axis by axis.
  __device__ unsigned warp_least(unsigned word) const {
    unsigned r = 0;
#pragma unroll
    for (int a = 0; a < kAxes; ++a) {
      r |= __reduce_min_sync(cuda::kAllLanes, field(word, a)) << shift[a];
    }
    return r;
  }
  __device__ unsigned warp_greatest(unsigned word) const {
    unsigned r = 0;
#pragma unroll
    for (int a = 0; a < kAxes; ++a) {
      r |= __reduce_max_sync(cuda::kAllLanes, field(word, a)) << shift[a];
    }
    return r;
  }
};

// What one call computes.
struct Problem {
  WindowRule rule;
  int heads, key_heads, group;  // of a batch entry
  int queries, keys, width, value_width;
  float scale, scale_log2e;
  const float* table = nullptr;  // of a grid_bias
  int64_t per_head = 0;
  int place[kAxes] = {};  // strides of the table
};

// A query: its token (−1: nobody), its window as words, what to subtract from a key's bias.
struct QueryFacts {
  int token;
  unsigned low, high;
  int bias;
};
// A key: its token (−1: nobody), its word, the entry of the table for a query at the origin.
struct KeyFacts {
  int token;
  unsigned at;
  int bias;
};

// Query n of a box; its window in a box of keys that need not hold all of it.
__device__ inline QueryFacts query_facts(const Problem& p, const Fields& f, const GridBox& box,
                                         int count, int n, const GridBox& keys) {
  if (n >= count) return {-1, f.most, 0, 0};
  int at[kAxes];
  box.locate(n, at);
  QueryFacts q{p.rule.query_token(box, at), 0, 0, 0};
#pragma unroll
  for (int a = 0; a < kAxes; ++a) {
    const AxisWindows& x = p.rule.axis[a];
    const IndexRange r = x.keys_of(at[a], x.line_keys(box.residue[a]));
    const int length = keys.length(a), begin = r.begin - keys.range[a].begin;
    q.low |= f.pack(a, min(max(begin, 0), length) + 1);
    q.high |= f.pack(a, min(max(r.end - keys.range[a].begin, 0), length));
    q.bias += x.origin_of(at[a]) * p.place[a];
  }
  return q;
}

__device__ inline KeyFacts key_facts(const Problem& p, const Fields& f, const GridBox& box,
                                     int count, int n) {
  if (n >= count) return {-1, 0, 0};
  int at[kAxes];
  box.locate(n, at);
  KeyFacts k{p.rule.key_token(box, at), 0, 0};
#pragma unroll
  for (int a = 0; a < kAxes; ++a) {
    k.at |= f.pack(a, at[a] - box.range[a].begin + 1);
    k.bias += (at[a] + p.rule.axis[a].window - 1) * p.place[a];
  }
  return k;
}

// Copies rows of a head, whose numbers are in shared memory, into tiles of kCount × kWidth; zeros
// for nobody. All kThreads take part.
template <class T, int kCount, int kWidth, int kThreads>
__device__ inline void copy_rows(unsigned tile, const T* from, int64_t stride, int width,
                                 const int* tokens, int thread) {
  constexpr int kChunks = kWidth / 8, kStep = kThreads / kChunks;
  const int row = thread / kChunks, chunk = thread % kChunks;
  const bool inside = chunk * 8 < width;
  const T* source = from + (inside ? chunk * 8 : 0);
#pragma unroll
  for (int i = 0; i < kCount / kStep; ++i) {
    const int r = row + i * kStep, token = tokens[r];
    const bool there = inside && token >= 0;
    cuda::copy_async(tile + dense::chunk_offset<kWidth>(r, chunk),
                     there ? source + token * stride : from, there);
  }
}

// Writes a warp's 16 × kWidth accumulators, rows 0–7 times `upper` and rows 8–15 times `lower`, to
// the rows of a head that `tokens` names, through 16 tile rows that no other warp uses.
template <class T, int kWidth>
__device__ inline void store_tokens(cuda::Accumulator (&c)[kWidth / 8], float upper, float lower,
                                    char* staging, T* to, int64_t stride, const int* tokens,
                                    int width) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
    char* at = staging + dense::chunk_offset<kWidth>(lane / 4, n) + lane % 4 * 4;
    *reinterpret_cast<unsigned*>(at) = cuda::pack<T>(c[n][0] * upper, c[n][1] * upper);
    *reinterpret_cast<unsigned*>(at + 8 * kWidth * 2) =
        cuda::pack<T>(c[n][2] * lower, c[n][3] * lower);
  }
  __syncwarp();
  constexpr int kChunks = kWidth / 8;
#pragma unroll
  for (int i = 0; i < 16 * kChunks; i += cuda::kWarp) {
    const int row = (i + lane) / kChunks, chunk = (i + lane) % kChunks, token = tokens[row];
    if (token >= 0 && chunk * 8 < width) {
      cuda::store(to + token * stride + chunk * 8,
                  cuda::load<8>(reinterpret_cast<const T*>(
                      staging + dense::chunk_offset<kWidth>(row, chunk))));
    }
  }
  __syncwarp();
}

// A block's head and tile; tiles of a head follow one another, so that neighbours share keys.
struct Work {
  int head;  // over the batch
  int tile;
};
__device__ inline Work work_of(int tiles) {
  const auto block = static_cast<int>(blockIdx.x);
  return {block / tiles, block % tiles};
}

// For host code: cuts into boxes and fields, and whether words have room for them.
struct Plan {
  GridTiles query_tiles, key_tiles;
  Fields query_fields, key_fields;  // of boxes of keys that a tile of queries meets; of key tiles
  bool fits = false;
};
Plan plan_of(const WindowRule& rule);

struct Gradients {
  Tensor query, key, value;
  Tensor table;  // (H|1, places), f32, if it is wanted
};
// Whether the gradient of a table with so many places per head is summed in shared memory.
bool table_fits(int64_t width, int64_t places, Device device);
void forward_halves(const Problem& p, const Plan& plan, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& out, const Tensor& lse);
void backward_halves(const Problem& p, const Plan& plan, const Tensor& q, const Tensor& k,
                     const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const Gradients& grads);

}  // namespace tessera::neighborhood
