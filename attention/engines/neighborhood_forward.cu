// Forward of the neighborhood engine in halves: the loop of dense_forward.cu over boxes. Every warp
// skips keys that none of its queries sees and masks only where some does not.
#include "tessera/attention/engines/neighborhood_tiles.h"

namespace tessera::neighborhood {
namespace {

constexpr int kWarps = 4, kRowTiles = 2, kThreads = kWarps * 32;
constexpr int kStep = 32;  // keys at a time in registers
static_assert(kWarps * kRowTiles * 16 == kRows && kThreads == 2 * kOthers);

template <class T>
struct ForwardArguments {
  Problem problem;
  GridTiles cut;
  Fields fields;
  int tiles;
  Heads<const T> q, k, v;
  Heads<T> out;
  float* lse;
};

struct Shared {
  int key_token[3][kOthers];  // facts of three tiles: made two ahead of their use
  unsigned key_at[3][kOthers];
  int key_bias[3][kOthers];
  int token[kRows];
  unsigned low[kRows], high[kRows];
  int bias[kRows];
};

using Scores = cuda::Accumulator[kStep / 8];

// Makes weights of 16 rows of scores: the maximum seen so far rises, earlier sums and results
// shrink accordingly.
template <int kWidth>
__device__ inline void soften(Scores& s, cuda::Accumulator (&o)[kWidth / 8], float (&top)[2],
                              float (&total)[2], float scale) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float best = top[r];
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) best = fmaxf(best, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 1));
    best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 2));
    const float shift = best == -INFINITY ? 0 : best * scale;
    if (__any_sync(cuda::kAllLanes, best > top[r])) {
      const float shrink = cuda::exp2_fast(top[r] * scale - shift);
      total[r] *= shrink;
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        o[n][2 * r] *= shrink;
        o[n][2 * r + 1] *= shrink;
      }
    }
    top[r] = best;
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        s[n][e] = cuda::exp2_fast(s[n][e] * scale - shift);
        total[r] += s[n][e];
      }
    }
  }
}

template <class T, int kWidth, bool kBias>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(const __grid_constant__ ForwardArguments<T> a) {
  constexpr int kSteps = kWidth / 16;
  constexpr bool kKept = kWidth == 64;  // queries stay in registers
  constexpr unsigned kRowStep = 16 * kWidth * 2;
  constexpr unsigned kKeyBytes = dense::kTileBytes<kOthers, kWidth>;
  extern __shared__ __align__(1024) char memory[];
  const Problem& p = a.problem;
  const Fields& f = a.fields;
  const Work work = work_of(a.tiles);
  const GridBox queries = a.cut.queries(p.rule, work.tile);
  if (queries.is_empty()) return;
  const GridBox keys = p.rule.keys_of(queries);
  const int count = keys.count(), tiles = (count + kOthers - 1) / kOthers;
  const int b = work.head / p.heads, h = work.head % p.heads, kh = h / p.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;

  const unsigned q_tile = cuda::shared_address(memory);
  const unsigned k_tiles = q_tile + dense::kTileBytes<kRows, kWidth>;
  const unsigned v_tiles = k_tiles + 2 * kKeyBytes;
  Shared& shared =
      *reinterpret_cast<Shared*>(memory + dense::kTileBytes<kRows, kWidth> + 4 * kKeyBytes);
  auto find_keys = [&](int tile, int n) {
    const KeyFacts k = key_facts(p, f, keys, count, tile * kOthers + n);
    shared.key_token[tile % 3][n] = k.token;
    shared.key_at[tile % 3][n] = k.at;
    if constexpr (kBias) shared.key_bias[tile % 3][n] = k.bias;
  };
  {
    const QueryFacts q = query_facts(p, f, queries, queries.count(), thread, keys);
    shared.token[thread] = q.token;
    shared.low[thread] = q.low;
    shared.high[thread] = q.high;
    if constexpr (kBias) shared.bias[thread] = q.bias;
    find_keys(thread / kOthers, thread % kOthers);
  }
  __syncthreads();
  copy_rows<T, kRows, kWidth, kThreads>(q_tile, a.q.at(b, h), a.q.row, p.width, shared.token,
                                        thread);
  cuda::commit_copies();
  auto fetch = [&](int j, unsigned stage) {
    const int t = cuda::opaque(thread);  // addresses are made anew: registers are short
    const int* tokens = shared.key_token[j % 3];
    copy_rows<T, kOthers, kWidth, kThreads>(k_tiles + stage, a.k.at(b, kh), a.k.row, p.width,
                                            tokens, t);
    copy_rows<T, kOthers, kWidth, kThreads>(v_tiles + stage, a.v.at(b, kh), a.v.row, p.value_width,
                                            tokens, t);
  };
  if (tiles > 0) fetch(0, 0);
  cuda::commit_copies();

  const unsigned at = dense::lane_offset<kWidth>();
  const unsigned q_rows = q_tile + warp * kRowTiles * kRowStep + at;
  unsigned q[kKept ? kRowTiles : 1][kKept ? kSteps : 1][4];
  if constexpr (kKept) {
    cuda::wait_copies<1>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int kk = 0; kk < kSteps; ++kk) {
        dense::load_left(q[m][kk], (q_rows ^ (kk * 32)) + m * kRowStep);
      }
    }
  }

  // What any and what every query of the warp sees; what the lane's own see.
  const unsigned one_low = shared.low[thread], one_high = shared.high[thread];
  const unsigned any_low = f.warp_least(one_low), any_high = f.warp_greatest(one_high);
  const unsigned all_low = f.warp_greatest(one_low), all_high = f.warp_least(one_high);
  unsigned low[kRowTiles][2], high[kRowTiles][2];
  [[maybe_unused]] int bias[kRowTiles][2];
  cuda::Accumulator o[kRowTiles][kWidth / 8];
  float top[kRowTiles][2], total[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    dense::clear(o[m]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = (warp * kRowTiles + m) * 16 + lane / 4 + 8 * r;
      low[m][r] = shared.low[row];
      high[m][r] = shared.high[row];
      if constexpr (kBias) bias[m][r] = shared.bias[row];
      top[m][r] = -INFINITY;
      total[m][r] = 0;
    }
  }
  [[maybe_unused]] const float* table = kBias ? p.table + h * p.per_head : nullptr;
  const float scale = kBias ? 1 : p.scale_log2e;  // biased scores are exponents of 2 already

  for (int j = 0; j < tiles; ++j) {
    cuda::wait_copies<0>();
    __syncthreads();
    const unsigned stage = (j & 1) * kKeyBytes;
    if (j + 1 < tiles) fetch(j + 1, kKeyBytes - stage);
    cuda::commit_copies();
    if (thread < kOthers && j + 2 < tiles) find_keys(j + 2, cuda::opaque(thread));
    const unsigned* places = shared.key_at[j % 3];
    [[maybe_unused]] const int* key_bias = shared.key_bias[j % 3];
#pragma unroll 1
    for (int u = 0; u < kOthers / kStep; ++u) {
      const unsigned mine = places[u * kStep + lane];
      if (!__any_sync(cuda::kAllLanes, f.between(any_low, mine, any_high))) continue;
      const bool complete = __all_sync(cuda::kAllLanes, f.between(all_low, mine, all_high));

      Scores s[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) dense::clear(s[m]);
      const unsigned k_tile = k_tiles + stage + u * (kStep / 16) * kRowStep + at;
      [[maybe_unused]] const unsigned q_now = cuda::opaque(q_rows);
#pragma unroll
      for (int kk = 0; kk < kSteps; ++kk) {
        unsigned left[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          if constexpr (kKept) {
#pragma unroll
            for (int i = 0; i < 4; ++i) left[m][i] = q[m][kk][i];
          } else {
            dense::load_left(left[m], (q_now ^ (kk * 32)) + m * kRowStep);
          }
        }
#pragma unroll
        for (int n = 0; n < kStep / 16; ++n) {
          unsigned right[4];
          cuda::load_matrices(right, (k_tile ^ (kk * 32)) + n * kRowStep);
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            cuda::mma<T>(s[m][2 * n], left[m], right[0], right[1]);
            cuda::mma<T>(s[m][2 * n + 1], left[m], right[2], right[3]);
          }
        }
      }

      if (kBias || !complete) {
#pragma unroll
        for (int n = 0; n < kStep / 8; ++n) {
          const int column = u * kStep + n * 8 + lane % 4 * 2;
          const auto place = cuda::load<2>(places + column);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
              const bool seen = f.between(low[m][e / 2], place[e % 2], high[m][e / 2]);
              if constexpr (kBias) {
                const int index = key_bias[column + e % 2] - bias[m][e / 2];
                const float entry = seen ? __ldg(table + index) : -INFINITY;
                s[m][n][e] = s[m][n][e] * p.scale_log2e + entry * dense::kLog2e;
              } else {
                if (!seen) s[m][n][e] = -INFINITY;
              }
            }
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) soften<kWidth>(s[m], o[m], top[m], total[m], scale);

#pragma unroll
      for (int kk = 0; kk < kStep / 16; ++kk) {
        unsigned left[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          dense::pack_left<T>(left[m], s[m][2 * kk], s[m][2 * kk + 1]);
        }
#pragma unroll
        for (int n = 0; n < kWidth / 16; ++n) {
          unsigned right[4];
          cuda::load_transposed(right, (k_tile ^ (n * 32)) + (2 * kKeyBytes + kk * kRowStep));
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            cuda::mma<T>(o[m][2 * n], left[m], right[0], right[2]);
            cuda::mma<T>(o[m][2 * n + 1], left[m], right[1], right[3]);
          }
        }
      }
    }
  }

  cuda::wait_copies<0>();
  __syncthreads();  // the tile of queries serves for staging now
  float* lse = a.lse + static_cast<int64_t>(work.head) * p.queries;
  const float unit = kBias ? 1 / dense::kLog2e : p.scale;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = (warp * kRowTiles + m) * 16;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float& sum = total[m][r];
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 1);
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 2);
      inverse[r] = sum == 0 ? 0 : 1 / sum;
      const int token = shared.token[row + lane / 4 + 8 * r];
      if (lane % 4 == 0 && token >= 0) {
        lse[token] = sum == 0 ? -INFINITY : top[m][r] * unit + logf(sum);
      }
    }
    store_tokens<T, kWidth>(o[m], inverse[0], inverse[1], memory + row * kWidth * 2, a.out.at(b, h),
                            a.out.row, shared.token + row, p.value_width);
  }
}

template <class T, int kWidth, bool kBias>
void run(const ForwardArguments<T>& a, int64_t heads, Device device) {
  constexpr unsigned kBytes =
      dense::kTileBytes<kRows, kWidth> + 4 * dense::kTileBytes<kOthers, kWidth> + sizeof(Shared);
  cuda::launch("neighborhood_attention", device, forward_kernel<T, kWidth, kBias>,
               dense::grid_of(int64_t{a.tiles} * heads), kThreads, kBytes, a);
}

template <class T>
void run(const Problem& p, const Plan& plan, const Tensor& q, const Tensor& k, const Tensor& v,
         const Tensor& out, const Tensor& lse) {
  const ForwardArguments<T> a{p,
                              plan.query_tiles,
                              plan.query_fields,
                              static_cast<int>(plan.query_tiles.count(p.rule)),
                              Heads<const T>(q),
                              Heads<const T>(k),
                              Heads<const T>(v),
                              Heads<T>(out),
                              cuda::data<float>(lse)};
  const int64_t heads = q.size(0) * q.size(1);
  const bool narrow = std::max(p.width, p.value_width) <= 64;
  if (p.table == nullptr) {
    narrow ? run<T, 64, false>(a, heads, q.device()) : run<T, 128, false>(a, heads, q.device());
  } else {
    narrow ? run<T, 64, true>(a, heads, q.device()) : run<T, 128, true>(a, heads, q.device());
  }
}

}  // namespace

void forward_halves(const Problem& p, const Plan& plan, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (q.dtype() == DType::bf16) {
    run<bfloat16>(p, plan, q, k, v, out, lse);
  } else {
    run<float16>(p, plan, q, k, v, out, lse);
  }
}

}  // namespace tessera::neighborhood
