// The forward of softmax attention in halves on Hopper, for any list of key tiles (Shah et al.
// 2024, "FlashAttention-3"). A block owns a tile of queries. One thread of its first warpgroup
// streams tiles of keys and values into shared memory; each of the other warpgroups owns 64
// queries, whose scores, weights and results stay in its registers. Warpgroups take turns at the
// tensor cores: one has the scores of a tile of keys computed, and the weights of the tile before
// multiplied with its values, while the others make weights.
//
// A rule of visibility is a functor on the device, queries → the keys they see, whose begin and end
// never fall from a query to the next. A source of tiles tells which tiles of keys a block visits:
//   Source(rule-or-lists…)                        passed to the kernel by value
//   Source::Tiles(source, batch, head, first query, queries of the block that there are)
//     int count                                   tiles visited; 0 gives output 0, logsumexp −inf
//     int key(int j)                              first key of the j-th
//     Span plain(int first, int last)             visits that queries first … last need no mask for
//     Span visible(int query, int j)              keys seen by the query, for a visit with mask
#pragma once

#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/hopper.h"
#include "tessera/attention/engines/tensor_map.h"

namespace tessera::dense {

struct Span {
  int begin, end;
};

// Rows of at most kWidth elements; kGroups (2 or 3) warpgroups of 64 queries, kKeys keys at a time.
// kLoading, kComputing: registers of a thread of the first warpgroup and of the others.
template <int kWidthOf, int kGroupsOf, int kLoadingOf = kGroupsOf == 2 ? 24 : 32>
struct HopperShape {
  static constexpr int kWidth = kWidthOf, kGroups = kGroupsOf, kKeys = 128;
  static constexpr int kLoading = kLoadingOf;
  static constexpr int kComputing = ((kGroups == 2 ? 504 : 512) - kLoading) / kGroups;
};

template <class C>
struct HopperTile {
  static constexpr int kRows = C::kGroups * 64, kThreads = (C::kGroups + 1) * cuda::kWarpgroup;
  static constexpr int kBoxes = C::kWidth / 64, kStages = 2;
  static constexpr unsigned kQueryBox = kRows * 128, kKeyBox = C::kKeys * 128;
  static constexpr unsigned kQueryBytes = kBoxes * kQueryBox, kKeyBytes = kBoxes * kKeyBox;
  static constexpr unsigned kKeysAt = kStages * kQueryBytes;
  static constexpr unsigned kValuesAt = kKeysAt + kStages * kKeyBytes;
  static constexpr unsigned kBarriersAt = kValuesAt + kStages * kKeyBytes;
  static constexpr unsigned kBytes = kBarriersAt + 6 * kStages * 8;
};

template <class Source>
struct HopperForward {
  CUtensorMap q, k, v, out;  // boxes of kRows, kKeys, kKeys and 64 rows
  Source source;
  float* lse;  // (B, H, queries)
  int batch, heads, group, queries;
  float scale, scale_log2e;  // scores are exponents of 2
  int tiles, section;        // see Task
};

// All tiles that a rule makes visible, last first: the causal bound comes with the longest wait.
template <class Rule, int kRows, int kKeys>
struct SpanSource {
  Rule rule;

  struct Tiles {
    const Rule& rule;
    int last_query, first, count;

    __device__ Tiles(const SpanSource& source, int, int, int query, int there)
        : rule(source.rule), last_query(query + there - 1) {
      const int end = rule(last_query).end;
      first = rule(query).begin / kKeys;
      count = max(0, (end + kKeys - 1) / kKeys - first);
    }
    __device__ int key(int j) const { return (first + count - 1 - j) * kKeys; }
    __device__ Span plain(int query, int last) const {
      const int end = first + count;
      const int low = (rule(min(last, last_query)).begin + kKeys - 1) / kKeys;
      const int begin = min(max(0, end - rule(min(query, last_query)).end / kKeys), count);
      return {begin, max(begin, min(end - low, count))};
    }
    __device__ Span visible(int query, int) const { return rule(min(query, last_query)); }
  };
};

// Barriers of the stages of each kind: `full` for every stage, then `empty`.
struct HopperBarriers {
  unsigned queries, keys, values;

  template <class L>
  __device__ static HopperBarriers at(unsigned memory) {
    const unsigned first = memory + L::kBarriersAt;
    return {first, first + 16 * L::kStages, first + 32 * L::kStages};
  }
};

namespace hopper {

template <class L>
__device__ inline unsigned full(unsigned barriers, int j) {
  return barriers + j % L::kStages * 8;
}
template <class L>
__device__ inline unsigned empty(unsigned barriers, int j) {
  return barriers + (L::kStages + j % L::kStages) * 8;
}
template <class L>
__device__ inline unsigned parity(int j) {
  return j / L::kStages & 1;
}
// A descriptor moved on; it never runs over into the upper half.
__device__ inline uint64_t moved(uint64_t descriptor, unsigned bytes) {
  return (descriptor & 0xffffffff00000000) | (static_cast<unsigned>(descriptor) + (bytes >> 4));
}
// 16 columns as the k-th summed over, of a tile whose boxes have `box` bytes.
__device__ inline constexpr unsigned columns(int k, unsigned box) {
  return static_cast<unsigned>(k / 4) * box + static_cast<unsigned>(k % 4) * 32;
}

// What a block has done before the tile of queries at hand: tiles of queries, visits of keys.
struct Progress {
  int queries = 0, keys = 0;
};

// The thread that fetches: values trail keys by one tile, as their use does.
template <class C, class L, class Source, class Tiles>
__device__ inline void fetch(const HopperForward<Source>& a, const Tiles& tiles, unsigned memory,
                             const HopperBarriers& bars, int query, int head, int batch,
                             const Progress& done) {
  const int key_head = head / a.group;
  auto tile = [&](const CUtensorMap& map, unsigned to, unsigned barriers, int j) {
    const int n = done.keys + j, key = tiles.key(j);
    cuda::barrier_wait(empty<L>(barriers, n), parity<L>(n) ^ 1);
    cuda::barrier_expect(full<L>(barriers, n), L::kKeyBytes);
#pragma unroll
    for (int box = 0; box < L::kBoxes; ++box) {
      cuda::load_box(to + n % L::kStages * L::kKeyBytes + box * L::kKeyBox, map,
                     full<L>(barriers, n), box * 64, key, key_head, batch, cuda::kCacheKeep);
    }
  };
  if (tiles.count > 0) tile(a.k, memory + L::kKeysAt, bars.keys, 0);
  const unsigned arrived = full<L>(bars.queries, done.queries);
  cuda::barrier_wait(empty<L>(bars.queries, done.queries), parity<L>(done.queries) ^ 1);
  if (tiles.count == 0) {  // the memory alone is handed over
    cuda::barrier_arrive(arrived);
    return;
  }
  cuda::barrier_expect(arrived, L::kQueryBytes);
#pragma unroll
  for (int box = 0; box < L::kBoxes; ++box) {
    cuda::load_box(memory + done.queries % L::kStages * L::kQueryBytes + box * L::kQueryBox, a.q,
                   arrived, box * 64, query, head, batch, cuda::kCacheFirstOut);
  }
  for (int j = 1; j < tiles.count; ++j) {
    tile(a.k, memory + L::kKeysAt, bars.keys, j);
    tile(a.v, memory + L::kValuesAt, bars.values, j - 1);
  }
  tile(a.v, memory + L::kValuesAt, bars.values, tiles.count - 1);
}

// Keys outside a row's span, counted from the lane's first column, score −inf.
template <int kCount>
__device__ inline void hide(float (&s)[kCount], Span upper, Span lower) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = i / 4 * 8 + i % 2;
    const Span& seen = i % 4 < 2 ? upper : lower;
    if (column < seen.begin || column >= seen.end) s[i] = -INFINITY;
  }
}

// Makes weights of scores: the maximum seen so far rises, what was summed before is to shrink.
// kBlind: a row may have seen nothing yet.
template <bool kBlind, int kCount>
__device__ inline void soften(float (&s)[kCount], float (&top)[2], float (&total)[2],
                              float (&shrink)[2], float scale) {
  float best[2] = {top[0], top[1]};
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    best[0] = fmaxf(best[0], fmaxf(s[i], s[i + 1]));
    best[1] = fmaxf(best[1], fmaxf(s[i + 2], s[i + 3]));
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    best[r] = fmaxf(best[r], __shfl_xor_sync(cuda::kAllLanes, best[r], 1));
    best[r] = fmaxf(best[r], __shfl_xor_sync(cuda::kAllLanes, best[r], 2));
  }
  float shift[2], sum[2] = {0, 0};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    shift[r] = kBlind && best[r] == -INFINITY ? 0 : best[r] * scale;
    shrink[r] = cuda::exp2_fast(top[r] * scale - shift[r]);
    top[r] = best[r];
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int r = i / 2 % 2;
    s[i] = cuda::exp2_fast(s[i] * scale - shift[r]);
    sum[r] += s[i];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) total[r] = total[r] * shrink[r] + sum[r];
}

// 64 queries of warpgroup `group`, the first of them `query`.
template <class T, class C, class L, class Source, class Tiles>
__device__ inline void attend(const HopperForward<Source>& a, const Tiles& tiles, unsigned memory,
                              const HopperBarriers& bars, int group, int query, int head, int batch,
                              const Progress& done) {
  constexpr int kSteps = C::kWidth / 16, kKeySteps = C::kKeys / 16;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) % cuda::kWarpgroup / 32;
  const bool speaker = threadIdx.x % cuda::kWarpgroup == 0;
  const unsigned own_rows = memory + done.queries % L::kStages * L::kQueryBytes + group * 64 * 128;
  const uint64_t q = cuda::descriptor(own_rows, 0);
  const uint64_t k = cuda::descriptor(memory + L::kKeysAt, 0);
  const uint64_t v = cuda::descriptor(memory + L::kValuesAt, L::kKeyBox);

  float s[C::kKeys / 2], o[C::kWidth / 2];
  unsigned p[kKeySteps][4];
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, shrink[2];
#pragma unroll
  for (float& x : o) x = 0;

  // `n`: visits since the block began.
  auto scores = [&](int n) {
    const uint64_t tile = moved(k, n % L::kStages * L::kKeyBytes);
    cuda::products_begin();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      cuda::product<T, 0, 0>(s, moved(q, columns(i, L::kQueryBox)),
                             moved(tile, columns(i, L::kKeyBox)), i > 0);
    }
    cuda::products_commit();
  };
  auto results = [&](int n) {
    const uint64_t tile = moved(v, n % L::kStages * L::kKeyBytes);
    cuda::products_begin();
#pragma unroll
    for (int i = 0; i < kKeySteps; ++i) {
      cuda::product<T, 1>(o, p[i], moved(tile, i * 2048), 1);
    }
    cuda::products_commit();
  };
  auto pin_weights = [&] {
#pragma unroll
    for (auto& step : p) cuda::pin(step);
  };
  auto weigh = [&](int j, auto masked) {
    if constexpr (masked) {
      const int row = query + warp * 16 + lane / 4, from = tiles.key(j) + lane % 4 * 2;
      const Span upper = tiles.visible(row, j), lower = tiles.visible(row + 8, j);
      hide(s, {upper.begin - from, upper.end - from}, {lower.begin - from, lower.end - from});
    }
    soften<masked>(s, top, total, shrink, a.scale_log2e);
  };
  auto pack_weights = [&] {
#pragma unroll
    for (int i = 0; i < kKeySteps; ++i) cuda::left_of<T>(p[i], s, i);
  };
  // The results of the tile of queries before have left, as far as its memory is concerned.
  auto hand_back = [&] {
    if (speaker && done.queries > 0) {
      cuda::wait_stores_read<0>();
      cuda::barrier_arrive(empty<L>(bars.queries, done.queries - 1));
    }
  };
  auto step = [&](int j, auto masked) {
    const int n = done.keys + j;
    cuda::barrier_wait(full<L>(bars.keys, n), parity<L>(n));
    cuda::named_sync(1 + group, 2 * cuda::kWarpgroup);
    cuda::pin(s);
    cuda::pin(o);
    pin_weights();
    scores(n);
    cuda::barrier_wait(full<L>(bars.values, n - 1), parity<L>(n - 1));
    results(n - 1);
    cuda::named_arrive(1 + (group + 1) % C::kGroups, 2 * cuda::kWarpgroup);
    cuda::products_wait<1>();
    cuda::pin(s);
    if (speaker) cuda::barrier_arrive(empty<L>(bars.keys, n));
    weigh(j, masked);
    // The compiler waits before most weights are made; holding it back was slower, as the turns
    // already keep both units busy.
    cuda::products_wait<0>();
    cuda::pin(o);
    pin_weights();
    if (speaker) cuda::barrier_arrive(empty<L>(bars.values, n - 1));
    pack_weights();
#pragma unroll
    for (int i = 0; i < C::kWidth / 2; ++i) o[i] *= shrink[i / 2 % 2];
  };

  cuda::barrier_wait(full<L>(bars.queries, done.queries), parity<L>(done.queries));
  if (tiles.count == 0) {
    hand_back();
  } else {
    constexpr std::true_type kMasked;
    constexpr std::false_type kPlain;
    cuda::barrier_wait(full<L>(bars.keys, done.keys), parity<L>(done.keys));
    cuda::pin(s);
    scores(done.keys);
    hand_back();
    cuda::products_wait<0>();
    cuda::pin(s);
    if (speaker) cuda::barrier_arrive(empty<L>(bars.keys, done.keys));
    weigh(0, kMasked);
    pack_weights();
    const Span plain = tiles.plain(query, query + 63);
    int j = 1;
    for (; j < plain.begin; ++j) step(j, kMasked);
    for (; j < plain.end; ++j) step(j, kPlain);
    for (; j < tiles.count; ++j) step(j, kMasked);
    const int last = done.keys + tiles.count - 1;
    cuda::barrier_wait(full<L>(bars.values, last), parity<L>(last));
    cuda::pin(o);
    pin_weights();
    results(last);
    cuda::products_wait<0>();
    cuda::pin(o);
    if (speaker) cuda::barrier_arrive(empty<L>(bars.values, last));
  }

  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(cuda::kAllLanes, total[r], 1);
    total[r] += __shfl_xor_sync(cuda::kAllLanes, total[r], 2);
    inverse[r] = total[r] == 0 ? 0 : 1 / total[r];
    const int row = query + warp * 16 + lane / 4 + 8 * r;
    if (lane % 4 == 0 && row < a.queries) {
      a.lse[(static_cast<int64_t>(batch) * a.heads + head) * a.queries + row] =
          total[r] == 0 ? -INFINITY : top[r] * a.scale + logf(total[r]);
    }
  }
  // Results leave through the warpgroup's own rows of queries, in the order of a box.
#pragma unroll
  for (int i = 0; i < C::kWidth / 2; ++i) o[i] *= inverse[i / 2 % 2];
  const unsigned at = own_rows + (warp * 16 + lane % 16) * 128;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    unsigned halves[4];
    cuda::left_of<T>(halves, o, i);
    const unsigned chunk = (i % 4 * 2 + lane / 16) ^ (lane % 8);
    cuda::store_matrices(at + i / 4 * L::kQueryBox + chunk * 16, halves);
  }
  cuda::fence_shared_writes();
  cuda::named_sync(1 + C::kGroups + group, cuda::kWarpgroup);
  if (speaker) {
#pragma unroll
    for (int box = 0; box < L::kBoxes; ++box) {
      cuda::store_box(a.out, own_rows + box * L::kQueryBox, box * 64, query, head, batch);
    }
    cuda::commit_stores();
  }
}

template <class T, class C, class Source>
__global__ void __launch_bounds__(HopperTile<C>::kThreads, 1)
    forward_kernel(const __grid_constant__ HopperForward<Source> a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using L = HopperTile<C>;
  extern __shared__ __align__(1024) char dynamic[];
  const unsigned memory = cuda::shared_address(dynamic);
  const HopperBarriers bars = HopperBarriers::at<L>(memory);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < L::kStages; ++i) {
      for (unsigned kind : {bars.queries, bars.keys, bars.values}) {
        cuda::barrier_init(full<L>(kind, i), 1);
        cuda::barrier_init(empty<L>(kind, i), C::kGroups);
      }
    }
    cuda::fence_barrier_init();
  }
  __syncthreads();
  auto for_tasks = [&](auto&& work) {
    Progress done;
    for_dealt(a.tiles * a.batch * a.heads, [&](int number) {
      const Task task = task_of(number, a.tiles, a.batch * a.heads, a.section);
      const int query = (a.tiles - 1 - task.tile) * L::kRows;  // the last queries see most keys
      const int batch = task.head / a.heads, head = task.head % a.heads;
      const typename Source::Tiles tiles(a.source, batch, head, query,
                                         min(L::kRows, a.queries - query));
      work(tiles, query, head, batch, done);
      ++done.queries;
      done.keys += tiles.count;
    });
  };
  const int group = cuda::warpgroup() - 1;
  if (group < 0) {
    cuda::give_registers<C::kLoading>();
    if (threadIdx.x < 32 && cuda::elected()) {
      for_tasks([&](const auto& tiles, int query, int head, int batch, const Progress& done) {
        fetch<C, L>(a, tiles, memory, bars, query, head, batch, done);
      });
    }
  } else {
    cuda::take_registers<C::kComputing>();
    // The last warpgroup gives the first its turn, which takes one more at the end.
    if (group == C::kGroups - 1) cuda::named_arrive(1, 2 * cuda::kWarpgroup);
    for_tasks([&](const auto& tiles, int query, int head, int batch, const Progress& done) {
      attend<T, C, L>(a, tiles, memory, bars, group, query + group * 64, head, batch, done);
    });
    if (group == 0) cuda::named_sync(1, 2 * cuda::kWarpgroup);
    cuda::wait_stores_read<0>();
  }
#endif
}

}  // namespace hopper

// Launches the forward over a source. `dealt`: see for_dealt.
template <class T, class C, class Source>
void run_hopper_forward(std::string_view op, const Sizes& s, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& out, const Tensor& lse, const Source& source,
                        bool dealt) {
  using L = HopperTile<C>;
  const int heads = s.batch * s.heads, tiles = (s.queries + L::kRows - 1) / L::kRows;
  const int64_t bytes = int64_t{2} * (s.width + s.value_width) * s.keys / s.group;
  const HopperForward<Source> a{cuda::tensor_map(op, q, L::kRows),
                                cuda::tensor_map(op, k, C::kKeys),
                                cuda::tensor_map(op, v, C::kKeys),
                                cuda::tensor_map(op, out, 64),
                                source,
                                cuda::data<float>(lse),
                                s.batch,
                                s.heads,
                                s.group,
                                s.queries,
                                static_cast<float>(s.scale),
                                static_cast<float>(s.scale) * kLog2e,
                                tiles,
                                section_of(bytes, heads)};
  cuda::launch(op, q.device(), hopper::forward_kernel<T, C, Source>,
               dealt_grid(int64_t{tiles} * heads, q.device(), dealt), L::kThreads, L::kBytes, a);
}

}  // namespace tessera::dense
