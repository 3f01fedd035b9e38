// Backward of groups in halves: weights come back from the logsumexp. One kernel owns slots and
// walks over the keys of their group for dQ, the other owns listed keys and walks over the slots
// for dK and dV. Rows of the scores are what the block owns, as in the dense engine.
#include "tessera/attention/engines/dense_products.h"
#include "tessera/attention/engines/gather_tiles.h"
#include "tessera/core/create.h"

namespace tessera::lists {
namespace {

template <class T>
struct BackwardArguments {
  Problem<T> p;
  dense::Heads<const T> out, grad_out;     // of slots
  dense::Heads<T> grad_q, grad_k, grad_v;  // of slots and listed keys
  const float* lse;
  const float* grad_lse;  // may be null
  // Of slots: lse · log2 e (+inf where there is none: weights 0), and ⟨dO, O⟩ − dL.
  float* exponent;
  float* delta;
  float scale_log2e;
  int tiles = 0;  // of what a block owns, in a group
  bool plain = false;
};

// Eight neighbouring threads per slot.
template <class T>
__global__ void statistics_kernel(const __grid_constant__ BackwardArguments<T> a) {
  const Problem<T>& p = a.p;
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.slots;
  const int64_t row = cuda::thread_index() / 8;
  const int lane = static_cast<int>(threadIdx.x % 8);
  float dot = 0;
  if (row < rows) {
    const int64_t slot = row % p.slots;
    const int h = static_cast<int>(row / p.slots % p.heads);
    const int b = static_cast<int>(row / p.slots / p.heads);
    for (int d = lane * 8; d < p.value_width; d += 64) {
      const auto o = cuda::load<8>(a.out.at(b, h) + slot * a.out.row + d);
      const auto g = cuda::load<8>(a.grad_out.at(b, h) + slot * a.grad_out.row + d);
#pragma unroll
      for (int e = 0; e < 8; ++e) dot += convert<float>(o[e]) * convert<float>(g[e]);
    }
  }
#pragma unroll
  for (int step = 4; step > 0; step /= 2) dot += __shfl_xor_sync(cuda::kAllLanes, dot, step);
  if (row >= rows || lane > 0) return;
  a.exponent[row] = a.lse[row] == -INFINITY ? INFINITY : a.lse[row] * dense::kLog2e;
  a.delta[row] = dot - (a.grad_lse != nullptr ? a.grad_lse[row] : 0);
}

// Behind the tiles in shared memory.
template <class C>
struct Extra {
  Facts own[C::kRows], others[2][C::kOthers];
  float exponents[2][C::kOthers], deltas[2][C::kOthers];
};
template <class C>
constexpr unsigned kTiles = 2 * C::kOwnBytes + 4 * C::kOtherBytes;

// kByQuery: own rows are slots, the others keys; else the other way round.
template <class T, class C, bool kByQuery>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(const __grid_constant__ BackwardArguments<T> a) {
  constexpr int kWidth = C::kWidth, kOthers = C::kOthers, kRowTiles = C::kRowTiles;
  constexpr unsigned kRowStep = C::kRowStep, kBetween = 2 * C::kOtherBytes;
  extern __shared__ __align__(1024) char memory[];
  Extra<C>& extra = *reinterpret_cast<Extra<C>*>(memory + kTiles<C>);
  auto& own_facts = extra.own;
  auto& other_facts = extra.others;
  auto &exponents = extra.exponents, &deltas = extra.deltas;
  const Problem<T>& p = a.p;
  const Group g = group_of(p, static_cast<int>(blockIdx.x), a.tiles);
  const int kh = g.h / p.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int begin = g.tile * C::kRows;
  const int64_t first_slot = static_cast<int64_t>(g.group) * p.slot_width;
  const int64_t first_key = static_cast<int64_t>(g.group) * p.keys.width;
  const int32_t* query_list = p.queries.head(g.b, g.h) + first_slot;
  const int32_t* key_list = p.keys.head(g.b, g.h) + first_key;
  const int64_t statistics = (static_cast<int64_t>(g.b) * p.heads + g.h) * p.slots + first_slot;
  const int own_count = kByQuery ? p.slot_width : p.keys.width;
  const int other_count = kByQuery ? p.keys.width : p.slot_width;

  // Rows of queries and of dO, or of keys and of values, into neighbouring tiles.
  auto copy_queries = [&](const auto& rows, unsigned tile, unsigned next, int from) {
    rows.copy(tile, p.q.at(g.b, g.h), p.q.row, p.width);
    rows.copy_slots(next, a.grad_out.at(g.b, g.h) + first_slot * a.grad_out.row, a.grad_out.row,
                    p.value_width, from);
  };
  auto copy_keys = [&](const auto& rows, unsigned tile, unsigned next) {
    rows.copy(tile, p.k.at(g.b, kh), p.k.row, p.width);
    rows.copy(next, p.v.at(g.b, kh), p.v.row, p.value_width);
  };
  auto facts_of = [&](int id, bool is_query) {
    return is_query ? query_facts(p, g.b, g.h, id) : Facts{id, 0, 0};
  };

  const unsigned own_tile = cuda::shared_address(memory);
  const unsigned other_tiles = own_tile + 2 * C::kOwnBytes;
  {
    ListCopy<T, C::kRows, kWidth> own{
        kByQuery ? query_list : key_list, own_count, kByQuery ? p.rule.queries : p.rule.keys, {}};
    own.read(begin);
    if constexpr (kByQuery) {
      copy_queries(own, own_tile, own_tile + C::kOwnBytes, begin);
    } else {
      copy_keys(own, own_tile, own_tile + C::kOwnBytes);
    }
    if (own.chunk() == 0) {
#pragma unroll
      for (int i = 0; i < own.kEach; ++i) own_facts[own.row(i)] = facts_of(own.ids[i], kByQuery);
    }
  }
  using OtherCopy = ListCopy<T, kOthers, kWidth>;
  OtherCopy others{
      kByQuery ? key_list : query_list, other_count, kByQuery ? p.rule.keys : p.rule.queries, {}};
  const int tiles = (other_count + kOthers - 1) / kOthers;
  bool nobody = false;
  auto fetch = [&](int j) {
    const int stage = j & 1;
    const unsigned tile = other_tiles + stage * C::kOtherBytes;
    if constexpr (kByQuery) {
      copy_keys(others, tile, tile + kBetween);
    } else {
      copy_queries(others, tile, tile + kBetween, j * kOthers);
    }
    if (others.chunk() == 0) {
#pragma unroll
      for (int i = 0; i < OtherCopy::kEach; ++i) {
        const int row = others.row(i);
        other_facts[stage][row] = facts_of(others.ids[i], !kByQuery);
        if constexpr (!kByQuery) {
          const bool there = others.ids[i] >= 0;
          exponents[stage][row] = there ? a.exponent[statistics + j * kOthers + row] : INFINITY;
          deltas[stage][row] = there ? a.delta[statistics + j * kOthers + row] : 0;
        }
      }
    }
    nobody = others.has_nobody();
    others.read((j + 1) * kOthers);
  };
  others.read(0);
  if (tiles > 0) fetch(0);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  __syncthreads();

  const int warp_row = warp * kRowTiles * 16;
  const unsigned at = dense::lane_offset<kWidth>();
  const unsigned own = own_tile + warp_row * kWidth * 2 + at;
  const dense::OwnRows<kRowTiles, kWidth, false> left(own), right(own + C::kOwnBytes);
  float own_exponent[kRowTiles][2], own_delta[kRowTiles][2];
  if constexpr (kByQuery) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int slot = begin + warp_row + m * 16 + lane / 4 + 8 * r;
        own_exponent[m][r] = slot < own_count ? a.exponent[statistics + slot] : INFINITY;
        own_delta[m][r] = slot < own_count ? a.delta[statistics + slot] : 0;
      }
    }
  }

  cuda::Accumulator sum[kRowTiles][kWidth / 8];  // dQ or dK
  cuda::Accumulator value_sum[kByQuery ? 1 : kRowTiles][kWidth / 8];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    dense::clear(sum[m]);
    if constexpr (!kByQuery) dense::clear(value_sum[m]);
  }

  for (int j = 0; j < tiles; ++j) {
    cuda::wait_copies<0>();
    const bool masked = __syncthreads_or(static_cast<int>(nobody)) != 0 || !a.plain;
    const int stage = j & 1;
    if (j + 1 < tiles) fetch(j + 1);
    cuda::commit_copies();
    if (begin + warp_row >= own_count) continue;
    const unsigned tile = other_tiles + stage * C::kOtherBytes + at;
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      if (j * kOthers + u * 16 >= other_count) break;
      cuda::Accumulator w[kRowTiles][2], ds[kRowTiles][2];
      dense::products<T>(w, left, tile + u * kRowStep, 0);
      dense::products<T>(ds, right, tile + u * kRowStep, kBetween);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int row = warp_row + m * 16 + lane / 4 + e / 2 * 8;
            const int column = u * 16 + n * 8 + lane % 4 * 2 + e % 2;
            float& x = w[m][n][e];
            if (masked) {
              const Facts& query = kByQuery ? own_facts[row] : other_facts[stage][column];
              const int key = kByQuery ? other_facts[stage][column].id : own_facts[row].id;
              if (!counts(p, g.b, g.h, query, key)) x = -INFINITY;
            }
            const float exponent = kByQuery ? own_exponent[m][e / 2] : exponents[stage][column];
            const float delta = kByQuery ? own_delta[m][e / 2] : deltas[stage][column];
            x = cuda::exp2_fast(x * a.scale_log2e - exponent);
            ds[m][n][e] = x * (ds[m][n][e] - delta);
          }
        }
      }
      dense::add_weighted<T, kWidth>(sum, ds, tile + u * kRowStep, 0);
      if constexpr (!kByQuery) {
        dense::add_weighted<T, kWidth>(value_sum, w, tile + u * kRowStep, kBetween);
      }
    }
  }

  __syncthreads();  // the own tiles serve for staging now
  const auto scale = static_cast<float>(p.scale);
  const dense::Heads<T>& to = kByQuery ? a.grad_q : a.grad_k;
  const int64_t first = kByQuery ? first_slot : first_key;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    char* staging = memory + (warp * kRowTiles + m) * kRowStep;
    const int row = begin + warp_row + m * 16;
    dense::store_rows<T, kWidth>(sum[m], scale, scale, staging, to.at(g.b, g.h) + first * to.row,
                                 to.row, row, own_count, p.width);
    if constexpr (!kByQuery) {
      dense::store_rows<T, kWidth>(value_sum[m], 1, 1, staging,
                                   a.grad_v.at(g.b, g.h) + first * a.grad_v.row, a.grad_v.row, row,
                                   own_count, p.value_width);
    }
  }
}

template <class T, class C, bool kByQuery>
void launch(BackwardArguments<T> a, Device device) {
  const int own = kByQuery ? a.p.slot_width : a.p.keys.width;
  a.tiles = (own + C::kRows - 1) / C::kRows;
  const int64_t groups = static_cast<int64_t>(a.p.batch) * a.p.heads * a.p.keys.groups;
  cuda::launch("grouped_gather_attention", device, backward_kernel<T, C, kByQuery>,
               dense::grid_of(groups * a.tiles), kThreads, kTiles<C> + sizeof(Extra<C>), a);
}

template <class T, bool kByQuery>
void run(const BackwardArguments<T>& a, Device device) {
  const int width = std::max(a.p.width, a.p.value_width);
  const int own = kByQuery ? a.p.slot_width : a.p.keys.width;
  if (width > 64) {
    launch<T, TileShape<128, 1, 32>, kByQuery>(a, device);
  } else if (own <= 64) {
    launch<T, TileShape<64, 1, 64>, kByQuery>(a, device);
  } else {
    launch<T, TileShape<64, 2, 64>, kByQuery>(a, device);
  }
}

}  // namespace

void backward_tiles(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                    const Tensor& key_lists, const AttentionOptions& options,
                    const AttentionResult& forward, const Tensor& grad_out, const Tensor& grad_lse,
                    const Gradients& to) {
  TensorList keep;
  const Tensor& lse = forward.logsumexp;
  const Tensor exponent = empty(lse.shape(), {DType::f32, lse.device()});
  const Tensor delta = empty(lse.shape(), {DType::f32, lse.device()});
  auto backward = [&]<class T>() {
    BackwardArguments<T> a;
    a.p = problem_of<T>(q, k, v, query_lists, key_lists, options, keep);
    a.out = dense::Heads<const T>(forward.output);
    a.grad_out = dense::Heads<const T>(grad_out);
    a.grad_q = dense::Heads<T>(to.query);
    a.grad_k = dense::Heads<T>(to.key);
    a.grad_v = dense::Heads<T>(to.value);
    a.lse = cuda::data<float>(lse);
    a.grad_lse = grad_lse.defined() ? cuda::data<float>(grad_lse) : nullptr;
    a.exponent = cuda::data<float>(exponent);
    a.delta = cuda::data<float>(delta);
    a.scale_log2e = static_cast<float>(options.scale) * dense::kLog2e;
    a.plain = hides_nothing(options);
    cuda::launch("grouped_gather_attention", q.device(), statistics_kernel<T>,
                 dense::grid_of((lse.numel() * 8 + 255) / 256), 256, 0, a);
    run<T, true>(a, q.device());
    run<T, false>(a, q.device());
  };
  q.dtype() == DType::bf16 ? backward.template operator()<bfloat16>()
                           : backward.template operator()<float16>();
}

}  // namespace tessera::lists
