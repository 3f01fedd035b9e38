// Backward of the neighborhood engine in halves, as in dense_backward.cu: one kernel owns keys and
// walks over the queries that see them for dK and dV, another owns queries and walks over keys for
// dQ. Warps skip and mask 16 tokens of the other side at a time.
#include "tessera/attention/engines/dense_products.h"
#include "tessera/attention/engines/neighborhood_tiles.h"
#include "tessera/core/create.h"

namespace tessera::neighborhood {
namespace {

template <class T>
struct BackwardArguments {
  Problem problem;
  GridTiles cut;
  Fields fields;
  int tiles = 0;
  Heads<const T> q, k, v, out, grad_out;
  Heads<T> grad_q, grad_k, grad_v;
  const float* lse;
  const float* grad_lse;  // may be null
  // Per query: lse · log2 e and ⟨dO, O⟩ − dL.
  float* exponent;
  float* delta;
};

// kLanes neighbouring threads per query, 16 bytes each.
template <class T, int kLanes>
__global__ void statistics_kernel(const __grid_constant__ BackwardArguments<T> a, int64_t rows) {
  const Problem& p = a.problem;
  const int64_t at = cuda::thread_index() / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  float dot = 0;
  if (at < rows && lane * 8 < p.value_width) {
    const int64_t row = at % p.queries;
    const int head = static_cast<int>(at / p.queries), b = head / p.heads, h = head % p.heads;
    const auto o = cuda::load<8>(a.out.at(b, h) + row * a.out.row + lane * 8);
    const auto g = cuda::load<8>(a.grad_out.at(b, h) + row * a.grad_out.row + lane * 8);
#pragma unroll
    for (int e = 0; e < 8; ++e) dot += convert<float>(o[e]) * convert<float>(g[e]);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, step);
  }
  if (lane > 0 || at >= rows) return;
  if (a.grad_lse != nullptr) dot -= a.grad_lse[at];
  a.exponent[at] = a.lse[at] == -INFINITY ? 0 : a.lse[at] * dense::kLog2e;
  a.delta[at] = dot;
}

// kWarps warps of 16 · kRowTiles rows each.
template <int kWidth_, int kWarps_, int kRowTiles_, int kBlocks_>
struct Shape {
  static constexpr int kWidth = kWidth_, kWarps = kWarps_, kRowTiles = kRowTiles_;
  static constexpr int kBlocks = kBlocks_, kThreads = kWarps * 32;
  static constexpr unsigned kRowStep = 16 * kWidth * 2;
  static constexpr unsigned kOwnBytes = dense::kTileBytes<kRows, kWidth>;
  static constexpr unsigned kOtherBytes = dense::kTileBytes<kOthers, kWidth>;
  static_assert(kWarps * kRowTiles * 16 == kRows && kThreads >= 2 * kOthers);
};

// s · scale (+ bias), as an exponent of 2; −inf for a hidden entry.
template <bool kBias>
__device__ inline float exponent_of(float s, bool seen, const Problem& p, const float* table,
                                    int index) {
  if constexpr (kBias) {
    const float entry = seen ? __ldg(table + index) : -INFINITY;
    return s * p.scale_log2e + entry * dense::kLog2e;
  } else {
    return seen ? s * p.scale_log2e : -INFINITY;
  }
}

struct QueriesShared {
  int key_token[3][kOthers];  // facts of three tiles: made two ahead of their use
  unsigned key_at[3][kOthers];
  int key_bias[3][kOthers];
  int token[kRows];
  unsigned low[kRows], high[kRows];
  int bias[kRows];
};

// Gradients of the scores between own rows and kOthers tokens, over the tiles of queries and dO,
// which are in registers by then.
struct Slopes {
  float* data;
  __device__ float& at(int row, int column) const {
    return data[row * kOthers + (column ^ (row % 8 * 8))];
  }
};

// Adds the gradients of scores between a box of queries and the tokens [first, first + kOthers) of
// a box of keys to `sums`, the table's gradient. A thread owns one step along the last axis in some
// lines of the table, so that it alone adds there, always in the same order.
template <int kThreads>
__device__ inline void add_to_table(const Problem& p, const GridBox& queries, const GridBox& keys,
                                    int first, int count, const Slopes& slopes, float* sums) {
  const AxisWindows* axis = p.rule.axis;
  const int steps = 2 * axis[2].window - 1, lines_y = 2 * axis[1].window - 1;
  int lanes = 1;
  while (lanes < steps && lanes < kThreads) lanes *= 2;
  const int groups = kThreads / lanes, group = static_cast<int>(threadIdx.x) / lanes;
  const int width = queries.length(2), key_width = keys.length(2);
  // Query n of a line and the key at `place` are place − from − n apart.
  const int from =
      axis[2].origin_of(queries.range[2].begin) - keys.range[2].begin - (axis[2].window - 1);
  const int end = min(first + kOthers, count);
  for (int line = first / key_width; line * key_width < end; ++line) {
    const int begin_x = max(first - line * key_width, 0);
    const int end_x = min(end - line * key_width, key_width);
    const int z = keys.range[0].begin + line / keys.length(1) + axis[0].window - 1;
    const int y = keys.range[1].begin + line % keys.length(1) + axis[1].window - 1;
    const int column = line * key_width - first;
    int row = 0;
    for (int own_z = queries.range[0].begin; own_z < queries.range[0].end; ++own_z) {
      const int place_z = z - axis[0].origin_of(own_z);
      for (int own_y = queries.range[1].begin; own_y < queries.range[1].end;
           ++own_y, row += width) {
        const int place_y = y - axis[1].origin_of(own_y), at = place_z * lines_y + place_y;
        if ((at & (groups - 1)) != group || place_y < 0 || place_y >= lines_y || place_z < 0 ||
            place_z >= 2 * axis[0].window - 1) {
          continue;
        }
        for (int step = static_cast<int>(threadIdx.x) % lanes; step < steps; step += lanes) {
          const int x = from + step;  // of the key that query 0 of the line meets at this step
          const int last = min(width, end_x - x);
          float sum = 0;
          for (int n = max(0, begin_x - x); n < last; ++n)
            sum += slopes.at(row + n, column + x + n);
          sums[at * steps + step] += sum;
        }
      }
    }
  }
}

// dQ of a tile of queries, and with kTable the gradient of the table.
template <class T, class C, bool kBias, bool kTable>
__device__ inline void walk_over_keys(const BackwardArguments<T>& a, const Work& work,
                                      char* memory) {
  constexpr int kWidth = C::kWidth, kRowTiles = C::kRowTiles;
  const Problem& p = a.problem;
  const Fields& f = a.fields;
  const GridBox queries = a.cut.queries(p.rule, work.tile);
  if (queries.is_empty()) return;
  const GridBox keys = p.rule.keys_of(queries);
  const int count = keys.count(), tiles = (count + kOthers - 1) / kOthers;
  const int b = work.head / p.heads, h = work.head % p.heads, kh = h / p.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const unsigned at = dense::lane_offset<kWidth>();

  const unsigned q_tile = cuda::shared_address(memory);
  const unsigned o_tile = q_tile + C::kOwnBytes;
  const unsigned k_tiles = o_tile + C::kOwnBytes;
  constexpr unsigned kBetween = 2 * C::kOtherBytes;
  const unsigned v_tiles = k_tiles + kBetween;
  QueriesShared& shared =
      *reinterpret_cast<QueriesShared*>(memory + 2 * C::kOwnBytes + 4 * C::kOtherBytes);
  [[maybe_unused]] const Slopes score_slopes{reinterpret_cast<float*>(memory)};
  static_assert(2 * C::kOwnBytes >= kRows * kOthers * sizeof(float));
  auto find_keys = [&](int tile, int n) {
    const KeyFacts k = key_facts(p, f, keys, count, tile * kOthers + n);
    shared.key_token[tile % 3][n] = k.token;
    shared.key_at[tile % 3][n] = k.at;
    if constexpr (kBias) shared.key_bias[tile % 3][n] = k.bias;
  };
  if (thread < kRows) {
    const QueryFacts q = query_facts(p, f, queries, queries.count(), thread, keys);
    shared.token[thread] = q.token;
    shared.low[thread] = q.low;
    shared.high[thread] = q.high;
    if constexpr (kBias) shared.bias[thread] = q.bias;
    find_keys(thread / kOthers, thread % kOthers);
  }
  __syncthreads();
  copy_rows<T, kRows, kWidth, C::kThreads>(q_tile, a.q.at(b, h), a.q.row, p.width, shared.token,
                                           thread);
  copy_rows<T, kRows, kWidth, C::kThreads>(o_tile, a.grad_out.at(b, h), a.grad_out.row,
                                           p.value_width, shared.token, thread);
  auto fetch = [&](int j, unsigned stage) {
    const int t = cuda::opaque(thread);
    const int* tokens = shared.key_token[j % 3];
    copy_rows<T, kOthers, kWidth, C::kThreads>(k_tiles + stage, a.k.at(b, kh), a.k.row, p.width,
                                               tokens, t);
    copy_rows<T, kOthers, kWidth, C::kThreads>(v_tiles + stage, a.v.at(b, kh), a.v.row,
                                               p.value_width, tokens, t);
  };
  if (tiles > 0) fetch(0, 0);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  __syncthreads();
  const unsigned own = warp * kRowTiles * C::kRowStep + at;
  const dense::OwnRows<kRowTiles, kWidth, true> own_queries(q_tile + own);
  const dense::OwnRows<kRowTiles, kWidth, true> slopes(o_tile + own);

  const int first_row = warp * kRowTiles * 16;
  const int one = first_row + lane % (kRowTiles * 16);
  const unsigned any_low = f.warp_least(shared.low[one]);
  const unsigned any_high = f.warp_greatest(shared.high[one]);
  const unsigned all_low = f.warp_greatest(shared.low[one]);
  const unsigned all_high = f.warp_least(shared.high[one]);
  cuda::Accumulator sum[kRowTiles][kWidth / 8];
  float exponent[kRowTiles][2], delta[kRowTiles][2];
  unsigned low[kRowTiles][2], high[kRowTiles][2];
  [[maybe_unused]] int bias[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    dense::clear(sum[m]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + m * 16 + lane / 4 + 8 * r, token = shared.token[row];
      const int64_t i = static_cast<int64_t>(work.head) * p.queries + max(token, 0);
      exponent[m][r] = a.exponent[i];
      delta[m][r] = a.delta[i];
      low[m][r] = shared.low[row];
      high[m][r] = shared.high[row];
      if constexpr (kBias) bias[m][r] = shared.bias[row];
    }
  }
  [[maybe_unused]] const float* table = kBias ? p.table + h * p.per_head : nullptr;

  for (int j = 0; j < tiles; ++j) {
    cuda::wait_copies<0>();
    __syncthreads();
    const unsigned stage = (j & 1) * C::kOtherBytes;
    if (j + 1 < tiles) fetch(j + 1, C::kOtherBytes - stage);
    cuda::commit_copies();
    if (thread < kOthers && j + 2 < tiles) find_keys(j + 2, cuda::opaque(thread));
    const unsigned* places = shared.key_at[j % 3];
    [[maybe_unused]] const int* key_bias = shared.key_bias[j % 3];
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      const unsigned mine = places[u * 16 + lane % 16];
      if (!__any_sync(cuda::kAllLanes, f.between(any_low, mine, any_high))) {
        if constexpr (kTable) {
          for (int n = lane; n < kRowTiles * 256; n += 32) {
            score_slopes.at(first_row + n / 16, u * 16 + n % 16) = 0;
          }
        }
        continue;
      }
      const bool complete = __all_sync(cuda::kAllLanes, f.between(all_low, mine, all_high));
      const unsigned others = k_tiles + stage + u * C::kRowStep + at;
      cuda::Accumulator s[kRowTiles][2], ds[kRowTiles][2];
      dense::products<T>(s, own_queries, others, 0);
      dense::products<T>(ds, slopes, others, kBetween);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int column = u * 16 + n * 8 + lane % 4 * 2;
        const auto place = cuda::load<2>(places + column);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            const bool seen = complete || f.between(low[m][e / 2], place[e % 2], high[m][e / 2]);
            int index = 0;
            if constexpr (kBias) index = key_bias[column + e % 2] - bias[m][e / 2];
            const float x = exponent_of<kBias>(s[m][n][e], seen, p, table, index);
            ds[m][n][e] = cuda::exp2_fast(x - exponent[m][e / 2]) * (ds[m][n][e] - delta[m][e / 2]);
            if constexpr (kTable) {
              const int row = first_row + m * 16 + lane / 4 + e / 2 * 8;
              score_slopes.at(row, column + e % 2) = ds[m][n][e];
            }
          }
        }
      }
      dense::add_weighted<T, kWidth>(sum, ds, others, 0);
    }
    if constexpr (kTable) {
      __syncthreads();
      add_to_table<C::kThreads>(p, queries, keys, j * kOthers, count, score_slopes,
                                reinterpret_cast<float*>(&shared + 1));
    }
  }

  cuda::wait_copies<0>();
  __syncthreads();  // the tile of queries serves for staging now
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = first_row + m * 16;
    store_tokens<T, kWidth>(sum[m], p.scale, p.scale, memory + row * kWidth * 2, a.grad_q.at(b, h),
                            a.grad_q.row, shared.token + row, p.width);
  }
}

template <class T, class C, bool kBias>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    queries_kernel(const __grid_constant__ BackwardArguments<T> a) {
  extern __shared__ __align__(1024) char memory[];
  walk_over_keys<T, C, kBias, false>(a, work_of(a.tiles), memory);
}

// The same for a run of a head's tiles, over the batch, whose table the block sums up: into row
// (head, slot) of `partial`.
template <class T, class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    table_kernel(const __grid_constant__ BackwardArguments<T> a, float* partial, int slots,
                 int64_t tasks, int places) {
  extern __shared__ __align__(1024) char memory[];
  const int h = static_cast<int>(blockIdx.x) / slots, slot = static_cast<int>(blockIdx.x) % slots;
  auto* sums = reinterpret_cast<float*>(memory + 2 * C::kOwnBytes + 4 * C::kOtherBytes +
                                        sizeof(QueriesShared));
  for (int n = static_cast<int>(threadIdx.x); n < places; n += C::kThreads) sums[n] = 0;
  const int64_t end = tasks * (slot + 1) / slots;
  for (int64_t task = tasks * slot / slots; task < end; ++task) {
    __syncthreads();  // with the one before
    const int batch = static_cast<int>(task / a.tiles);
    walk_over_keys<T, C, true, true>(
        a, {batch * a.problem.heads + h, static_cast<int>(task % a.tiles)}, memory);
  }
  __syncthreads();
  float* to = partial + static_cast<int64_t>(blockIdx.x) * places;
  for (int n = static_cast<int>(threadIdx.x); n < places; n += C::kThreads) to[n] = sums[n];
}

// sums[h, place] over slots (and over heads, for one table), in order.
__global__ void add_slots_kernel(float* to, const float* partial, int64_t count, int places,
                                 int rows) {
  const int64_t n = cuda::thread_index();
  if (n >= count) return;
  const float* from = partial + n / places * rows * places + n % places;
  float sum = 0;
  for (int r = 0; r < rows; ++r) sum += from[static_cast<int64_t>(r) * places];
  to[n] = sum;
}

struct KeysShared {
  int query_token[3][kOthers];  // facts of three tiles: made two ahead of their use
  unsigned query_low[3][kOthers], query_high[3][kOthers];
  int query_bias[3][kOthers];
  float exponent[2][kOthers], delta[2][kOthers];
  int token[kRows];
  unsigned at[kRows];
  int bias[kRows];
};

// dV and dK of the block's keys; queries of all heads that share them, one head after another.
template <class T, class C, bool kBias>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    keys_kernel(const __grid_constant__ BackwardArguments<T> a) {
  constexpr int kWidth = C::kWidth, kRowTiles = C::kRowTiles;
  extern __shared__ __align__(1024) char memory[];
  const Problem& p = a.problem;
  const Fields& f = a.fields;
  const Work work = work_of(a.tiles);
  const GridBox keys = a.cut.keys(p.rule, work.tile);
  if (keys.is_empty()) return;
  const GridBox queries = p.rule.queries_of(keys);
  const int count = queries.count(), per_head = (count + kOthers - 1) / kOthers;
  const int tiles = per_head * p.group;
  const int b = work.head / p.key_heads, kh = work.head % p.key_heads;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const unsigned at = dense::lane_offset<kWidth>();

  const unsigned k_tile = cuda::shared_address(memory);
  const unsigned v_tile = k_tile + C::kOwnBytes;
  const unsigned q_tiles = v_tile + C::kOwnBytes;
  constexpr unsigned kBetween = 2 * C::kOtherBytes;
  const unsigned o_tiles = q_tiles + kBetween;
  KeysShared& shared =
      *reinterpret_cast<KeysShared*>(memory + 2 * C::kOwnBytes + 4 * C::kOtherBytes);
  auto find_queries = [&](int tile, int n) {
    const QueryFacts q = query_facts(p, f, queries, count, tile % per_head * kOthers + n, keys);
    shared.query_token[tile % 3][n] = q.token;
    shared.query_low[tile % 3][n] = q.low;
    shared.query_high[tile % 3][n] = q.high;
    if constexpr (kBias) shared.query_bias[tile % 3][n] = q.bias;
  };
  if (thread < kRows) {
    const KeyFacts k = key_facts(p, f, keys, keys.count(), thread);
    shared.token[thread] = k.token;
    shared.at[thread] = k.at;
    if constexpr (kBias) shared.bias[thread] = k.bias;
    if (tiles > 0) find_queries(thread / kOthers, thread % kOthers);
  }
  __syncthreads();
  copy_rows<T, kRows, kWidth, C::kThreads>(k_tile, a.k.at(b, kh), a.k.row, p.width, shared.token,
                                           thread);
  copy_rows<T, kRows, kWidth, C::kThreads>(v_tile, a.v.at(b, kh), a.v.row, p.value_width,
                                           shared.token, thread);
  auto fetch = [&](int i) {
    const int t = cuda::opaque(thread), stage = i & 1, h = kh * p.group + i / per_head;
    const int* tokens = shared.query_token[i % 3];
    copy_rows<T, kOthers, kWidth, C::kThreads>(q_tiles + stage * C::kOtherBytes, a.q.at(b, h),
                                               a.q.row, p.width, tokens, t);
    copy_rows<T, kOthers, kWidth, C::kThreads>(o_tiles + stage * C::kOtherBytes,
                                               a.grad_out.at(b, h), a.grad_out.row, p.value_width,
                                               tokens, t);
    if (t < kOthers) {  // of nobody: hidden entries need finite numbers
      const int64_t from = (static_cast<int64_t>(b) * p.heads + h) * p.queries;
      const int64_t query = from + max(tokens[t], 0);
      shared.exponent[stage][t] = a.exponent[query];
      shared.delta[stage][t] = a.delta[query];
    }
  };
  if (tiles > 0) fetch(0);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  __syncthreads();
  const unsigned own = warp * kRowTiles * C::kRowStep + at;
  const dense::OwnRows<kRowTiles, kWidth, true> own_keys(k_tile + own);
  const dense::OwnRows<kRowTiles, kWidth, true> values(v_tile + own);

  const int first_row = warp * kRowTiles * 16;
  // The warp's keys lie between these words; of nobody: none does.
  const unsigned one = shared.at[first_row + lane % (kRowTiles * 16)];
  const unsigned least = f.warp_least(one == 0 ? f.most : one), greatest = f.warp_greatest(one);
  cuda::Accumulator grad_k[kRowTiles][kWidth / 8], grad_v[kRowTiles][kWidth / 8];
  unsigned place[kRowTiles][2];
  [[maybe_unused]] int bias[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    dense::clear(grad_k[m]);
    dense::clear(grad_v[m]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + m * 16 + lane / 4 + 8 * r;
      place[m][r] = shared.at[row];
      if constexpr (kBias) bias[m][r] = shared.bias[row];
    }
  }
  // Entries of keys that are nobody's are hidden too, where they are masked.
  const bool whole = __all_sync(cuda::kAllLanes, one != 0);

  for (int i = 0; i < tiles; ++i) {
    cuda::wait_copies<0>();
    __syncthreads();
    const int stage = i & 1;
    if (i + 1 < tiles) fetch(i + 1);
    cuda::commit_copies();
    if (thread < kOthers && i + 2 < tiles) find_queries(i + 2, cuda::opaque(thread));
    const unsigned* lows = shared.query_low[i % 3];
    const unsigned* highs = shared.query_high[i % 3];
    [[maybe_unused]] const int* query_bias = shared.query_bias[i % 3];
    [[maybe_unused]] const float* table =
        kBias ? p.table + (kh * p.group + i / per_head) * p.per_head : nullptr;
    const unsigned q_tile = q_tiles + stage * C::kOtherBytes + at;
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      const unsigned low = lows[u * 16 + lane % 16], high = highs[u * 16 + lane % 16];
      const bool any = f.ordered(low, greatest, least, high);
      if (!__any_sync(cuda::kAllLanes, any)) continue;
      const bool all = f.ordered(low, least, greatest, high);
      const bool complete = __all_sync(cuda::kAllLanes, all) && whole;
      cuda::Accumulator s[kRowTiles][2], ds[kRowTiles][2];
      dense::products<T>(s, own_keys, q_tile + u * C::kRowStep, 0);
      dense::products<T>(ds, values, q_tile + u * C::kRowStep, kBetween);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int column = u * 16 + n * 8 + lane % 4 * 2;
        const auto begin = cuda::load<2>(lows + column);
        const auto end = cuda::load<2>(highs + column);
        const auto exponent = cuda::load<2>(shared.exponent[stage] + column);
        const auto delta = cuda::load<2>(shared.delta[stage] + column);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            const bool seen = complete || f.between(begin[e % 2], place[m][e / 2], end[e % 2]);
            int index = 0;
            if constexpr (kBias) index = bias[m][e / 2] - query_bias[column + e % 2];
            const float x = exponent_of<kBias>(s[m][n][e], seen, p, table, index);
            s[m][n][e] = cuda::exp2_fast(x - exponent[e % 2]);
            ds[m][n][e] = s[m][n][e] * (ds[m][n][e] - delta[e % 2]);
          }
        }
      }
      dense::add_weighted<T, kWidth>(grad_v, s, q_tile + u * C::kRowStep, kBetween);
      dense::add_weighted<T, kWidth>(grad_k, ds, q_tile + u * C::kRowStep, 0);
    }
  }

  cuda::wait_copies<0>();
  __syncthreads();  // tiles of keys serve for staging now
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = first_row + m * 16;
    char* staging = memory + row * kWidth * 2;
    store_tokens<T, kWidth>(grad_k[m], p.scale, p.scale, staging, a.grad_k.at(b, kh), a.grad_k.row,
                            shared.token + row, p.width);
    store_tokens<T, kWidth>(grad_v[m], 1, 1, staging, a.grad_v.at(b, kh), a.grad_v.row,
                            shared.token + row, p.value_width);
  }
}

template <class C>
constexpr unsigned kTileMemory = 2 * C::kOwnBytes + 4 * C::kOtherBytes;

template <class C>
size_t table_memory(int64_t places) {
  return kTileMemory<C> + sizeof(QueriesShared) + static_cast<size_t>(places) * sizeof(float);
}

template <class T, class C, bool kBias>
void run_keys(BackwardArguments<T> a, const Plan& plan, int64_t batch, Device device) {
  a.cut = plan.key_tiles;
  a.fields = plan.key_fields;
  a.tiles = static_cast<int>(plan.key_tiles.count(a.problem.rule));
  cuda::launch("neighborhood_attention", device, keys_kernel<T, C, kBias>,
               dense::grid_of(int64_t{a.tiles} * batch * a.problem.key_heads), C::kThreads,
               kTileMemory<C> + sizeof(KeysShared), a);
}

// `table`: where its gradient goes, (H|1, places), or undefined.
template <class T, class C, bool kBias>
void run_queries(BackwardArguments<T> a, const Plan& plan, int64_t batch, const Tensor& table,
                 Device device) {
  a.cut = plan.query_tiles;
  a.fields = plan.query_fields;
  a.tiles = static_cast<int>(plan.query_tiles.count(a.problem.rule));
  const int heads = a.problem.heads;
  if constexpr (kBias) {
    if (table.defined()) {
      const int64_t tasks = int64_t{a.tiles} * batch, places = table.size(1);
      const auto slots = static_cast<int>(
          std::clamp<int64_t>(4 * cuda::multiprocessors(device) / heads, 1, tasks));
      const Tensor partial = empty({heads, slots, places}, {DType::f32, device});
      cuda::launch("neighborhood_attention", device, table_kernel<T, C>,
                   dense::grid_of(int64_t{heads} * slots), C::kThreads, table_memory<C>(places), a,
                   cuda::data<float>(partial), slots, tasks, static_cast<int>(places));
      const auto rows = static_cast<int>(heads / table.size(0)) * slots;
      cuda::launch("neighborhood_attention", device, add_slots_kernel,
                   dense::grid_of((table.numel() + 127) / 128), 128, 0, cuda::data<float>(table),
                   cuda::data<float>(partial), table.numel(), static_cast<int>(places), rows);
      return;
    }
  }
  cuda::launch("neighborhood_attention", device, queries_kernel<T, C, kBias>,
               dense::grid_of(int64_t{a.tiles} * batch * heads), C::kThreads,
               kTileMemory<C> + sizeof(QueriesShared), a);
}

template <class T, int kWidth, class C>
void run(const BackwardArguments<T>& a, const Plan& plan, int64_t batch, const Tensor& table,
         Device device) {
  const int64_t rows = batch * a.problem.heads * a.problem.queries;
  constexpr int kLanes = kWidth / 8;
  cuda::launch("neighborhood_attention", device, statistics_kernel<T, kLanes>,
               dense::grid_of((rows * kLanes + 255) / 256), 256, 0, a, rows);
  if (a.problem.table == nullptr) {
    run_keys<T, C, false>(a, plan, batch, device);
    run_queries<T, C, false>(a, plan, batch, table, device);
  } else {
    run_keys<T, C, true>(a, plan, batch, device);
    run_queries<T, C, true>(a, plan, batch, table, device);
  }
}

using Narrow = Shape<64, 4, 2, 2>;
using Wide = Shape<128, 8, 1, 1>;

}  // namespace

bool table_fits(int64_t width, int64_t places, Device device) {
  const size_t bytes = width <= 64 ? table_memory<Narrow>(places) : table_memory<Wide>(places);
  return bytes <= cuda::shared_limit(device);
}

void backward_halves(const Problem& p, const Plan& plan, const Tensor& q, const Tensor& k,
                     const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const Gradients& grads) {
  const Options f32{DType::f32, q.device()};
  const Tensor exponent = empty(lse.shape(), f32), delta = empty(lse.shape(), f32);
  auto launch = [&]<class T>() {
    BackwardArguments<T> a{p};
    a.q = Heads<const T>(q);
    a.k = Heads<const T>(k);
    a.v = Heads<const T>(v);
    a.out = Heads<const T>(out);
    a.grad_out = Heads<const T>(grad_out);
    a.grad_q = Heads<T>(grads.query);
    a.grad_k = Heads<T>(grads.key);
    a.grad_v = Heads<T>(grads.value);
    a.lse = cuda::data<float>(lse);
    a.grad_lse = grad_lse.defined() ? cuda::data<float>(grad_lse) : nullptr;
    a.exponent = cuda::data<float>(exponent);
    a.delta = cuda::data<float>(delta);
    if (std::max(p.width, p.value_width) <= 64) {
      run<T, 64, Narrow>(a, plan, q.size(0), grads.table, q.device());
    } else {
      run<T, 128, Wide>(a, plan, q.size(0), grads.table, q.device());
    }
  };
  if (q.dtype() == DType::bf16) {
    launch.template operator()<bfloat16>();
  } else {
    launch.template operator()<float16>();
  }
}

}  // namespace tessera::neighborhood
