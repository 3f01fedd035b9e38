// Forward of groups in halves, as in the dense engine (Dao 2023, "FlashAttention-2"): a block owns
// slots of a group, and the rows of its keys stream through two buffers.
#include "tessera/attention/engines/gather_tiles.h"

namespace tessera::lists {
namespace {

template <class T>
struct ForwardArguments {
  Problem<T> p;
  dense::Heads<T> out;
  float* lse;  // (B, H, G · Wq)
  float scale_log2e;
  int tiles;   // of a group's slots
  bool plain;  // the rule hides nothing
};

// The maximum of a row rises, earlier sums shrink, scores become weights.
template <int kTiles, int kWidth>
__device__ inline void soften(cuda::Accumulator (&s)[kTiles], cuda::Accumulator (&o)[kWidth / 8],
                              float (&top)[2], float (&total)[2], float scale) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float best = top[r];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) best = fmaxf(best, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 1));
    best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 2));
    const float shift = best == -INFINITY ? 0 : best * scale;
    const float shrink = cuda::exp2_fast(top[r] * scale - shift);
    top[r] = best;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        s[n][e] = cuda::exp2_fast(s[n][e] * scale - shift);
        sum += s[n][e];
      }
    }
    total[r] = total[r] * shrink + sum;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      o[n][2 * r] *= shrink;
      o[n][2 * r + 1] *= shrink;
    }
  }
}

// Behind the tiles in shared memory.
template <class C>
struct Extra {
  Facts queries[C::kRows];
  int key_ids[2][C::kOthers];
};
template <class C>
constexpr unsigned kTiles = C::kOwnBytes + 4 * C::kOtherBytes;

template <class T, class C>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(const __grid_constant__ ForwardArguments<T> a) {
  constexpr int kWidth = C::kWidth, kKeys = C::kOthers, kRowTiles = C::kRowTiles;
  constexpr unsigned kRowStep = C::kRowStep;
  extern __shared__ __align__(1024) char memory[];
  Extra<C>& extra = *reinterpret_cast<Extra<C>*>(memory + kTiles<C>);
  auto& queries = extra.queries;
  auto& key_ids = extra.key_ids;
  const Problem<T>& p = a.p;
  const Group g = group_of(p, static_cast<int>(blockIdx.x), a.tiles);
  const int kh = g.h / p.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int begin = g.tile * C::kRows, wide = p.slot_width;

  const unsigned q_tile = cuda::shared_address(memory);
  const unsigned k_tiles = q_tile + C::kOwnBytes, v_tiles = k_tiles + 2 * C::kOtherBytes;
  const unsigned at = dense::lane_offset<kWidth>();

  {
    ListCopy<T, C::kRows, kWidth> copy{
        p.queries.head(g.b, g.h) + static_cast<int64_t>(g.group) * wide, wide, p.rule.queries, {}};
    copy.read(begin);
    copy.copy(q_tile, p.q.at(g.b, g.h), p.q.row, p.width);
    if (copy.chunk() == 0) {
#pragma unroll
      for (int i = 0; i < copy.kEach; ++i) {
        queries[copy.row(i)] = query_facts(p, g.b, g.h, copy.ids[i]);
      }
    }
  }
  using KeyCopy = ListCopy<T, kKeys, kWidth>;
  KeyCopy keys{p.keys.head(g.b, g.h) + static_cast<int64_t>(g.group) * p.keys.width,
               p.keys.width,
               p.rule.keys,
               {}};
  const int tiles = (p.keys.width + kKeys - 1) / kKeys;
  bool nobody = false;  // among the keys that were fetched last
  auto fetch = [&](int j) {
    const int stage = j & 1;
    keys.copy(k_tiles + stage * C::kOtherBytes, p.k.at(g.b, kh), p.k.row, p.width);
    keys.copy(v_tiles + stage * C::kOtherBytes, p.v.at(g.b, kh), p.v.row, p.value_width);
    if (keys.chunk() == 0) {
#pragma unroll
      for (int i = 0; i < KeyCopy::kEach; ++i) key_ids[stage][keys.row(i)] = keys.ids[i];
    }
    nobody = keys.has_nobody();
    keys.read((j + 1) * kKeys);
  };
  keys.read(0);
  if (tiles > 0) fetch(0);
  cuda::commit_copies();

  cuda::Accumulator o[kRowTiles][kWidth / 8];
  float top[kRowTiles][2], total[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    dense::clear(o[m]);
    top[m][0] = top[m][1] = -INFINITY;
    total[m][0] = total[m][1] = 0;
  }
  const int warp_row = warp * kRowTiles * 16;
  int entries = 0;
  const unsigned q_rows = q_tile + warp_row * kWidth * 2 + at;

  for (int j = 0; j < tiles; ++j) {
    cuda::wait_copies<0>();
    const bool masked = __syncthreads_or(static_cast<int>(nobody)) != 0 || !a.plain;
    const int stage = j & 1;
    if (j + 1 < tiles) fetch(j + 1);
    cuda::commit_copies();
    if (begin + warp_row >= wide) continue;

    cuda::Accumulator s[kRowTiles][kKeys / 8];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) dense::clear(s[m]);
    const unsigned k_tile = k_tiles + stage * C::kOtherBytes + at;
#pragma unroll
    for (int kk = 0; kk < kWidth / 16; ++kk) {
      unsigned left[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        dense::load_left(left[m], (q_rows ^ (kk * 32)) + m * kRowStep);
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        unsigned right[4];
        cuda::load_matrices(right, (k_tile ^ (kk * 32)) + n * kRowStep);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          cuda::mma<T>(s[m][2 * n], left[m], right[0], right[1]);
          cuda::mma<T>(s[m][2 * n + 1], left[m], right[2], right[3]);
        }
      }
    }

    if (!masked) {
      for (int i = lane; i < kRowTiles * 16; i += 32) {
        if (queries[warp_row + i].id >= 0) entries += kKeys;
      }
    } else {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const Facts query = queries[warp_row + m * 16 + lane / 4 + 8 * r];
#pragma unroll
          for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int key = key_ids[stage][n * 8 + lane % 4 * 2 + e];
              const bool hidden = !counts(p, g.b, g.h, query, key);
              if (hidden) s[m][n][2 * r + e] = -INFINITY;
              entries += hidden ? 0 : 1;
            }
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      soften<kKeys / 8, kWidth>(s[m], o[m], top[m], total[m], a.scale_log2e);
    }

#pragma unroll
    for (int kk = 0; kk < kKeys / 16; ++kk) {
      unsigned left[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        dense::pack_left<T>(left[m], s[m][2 * kk], s[m][2 * kk + 1]);
      }
#pragma unroll
      for (int n = 0; n < kWidth / 16; ++n) {
        unsigned right[4];
        cuda::load_transposed(right, (k_tile ^ (n * 32)) + (2 * C::kOtherBytes + kk * kRowStep));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          cuda::mma<T>(o[m][2 * n], left[m], right[0], right[2]);
          cuda::mma<T>(o[m][2 * n + 1], left[m], right[1], right[3]);
        }
      }
    }
  }

  count_entries(p, entries);
  cuda::wait_copies<0>();  // without keys the queries may still be on their way
  __syncthreads();
  const int64_t first = static_cast<int64_t>(g.group) * wide;
  float* lse = a.lse + (static_cast<int64_t>(g.b) * p.heads + g.h) * p.slots + first;
  T* out = a.out.at(g.b, g.h) + first * a.out.row;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float& sum = total[m][r];
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 1);
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 2);
      const int row = warp_row + m * 16 + lane / 4 + 8 * r, slot = begin + row;
      // Where the rule hides nothing a slot without a query has not been masked.
      const bool nothing = sum == 0 || queries[row].id < 0;
      inverse[r] = nothing ? 0 : 1 / sum;
      if (lane % 4 == 0 && slot < wide) {
        lse[slot] = nothing ? -INFINITY : top[m][r] * static_cast<float>(p.scale) + logf(sum);
      }
    }
    dense::store_rows<T, kWidth>(o[m], inverse[0], inverse[1],
                                 memory + (warp * kRowTiles + m) * kRowStep, out, a.out.row,
                                 begin + warp_row + m * 16, wide, p.value_width);
  }
}

template <class T, int kWidth, int kRowTiles>
void run(ForwardArguments<T> a, Device device) {
  using C = TileShape<kWidth, kRowTiles, 64>;
  a.tiles = (a.p.slot_width + C::kRows - 1) / C::kRows;
  const int64_t groups = static_cast<int64_t>(a.p.batch) * a.p.heads * a.p.keys.groups;
  cuda::launch("grouped_gather_attention", device, forward_kernel<T, C>,
               dense::grid_of(groups * a.tiles), kThreads, kTiles<C> + sizeof(Extra<C>), a);
}

template <class T>
void run(const ForwardArguments<T>& a, int width, Device device) {
  const bool small = a.p.slot_width <= 64;
  if (width <= 64) {
    small ? run<T, 64, 1>(a, device) : run<T, 64, 2>(a, device);
  } else {
    small ? run<T, 128, 1>(a, device) : run<T, 128, 2>(a, device);
  }
}

}  // namespace

bool on_tiles(const Tensor& q, const Tensor& v, const Tensor& query_lists,
              const AttentionOptions& options) {
  return is_half(q.dtype()) && query_lists.defined() && query_lists.size(3) >= 16 &&
         std::max(q.size(3), v.size(3)) <= 128 && options.scale > 0;
}

void attend_tiles(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                  const Tensor& key_lists, const AttentionOptions& options,
                  const AttentionResult& to) {
  TensorList keep;
  auto attend = [&]<class T>() {
    ForwardArguments<T> a;
    a.p = problem_of<T>(q, k, v, query_lists, key_lists, options, keep);
    a.out = dense::Heads<T>(to.output);
    a.lse = cuda::data<float>(to.logsumexp);
    a.scale_log2e = static_cast<float>(options.scale) * dense::kLog2e;
    a.plain = hides_nothing(options);
    run(a, std::max(a.p.width, a.p.value_width), q.device());
  };
  q.dtype() == DType::bf16 ? attend.template operator()<bfloat16>()
                           : attend.template operator()<float16>();
}

}  // namespace tessera::lists
