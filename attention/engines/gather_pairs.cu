// Attention by pairs of a slot and a key: rows are read where they lie, by their lists, and
// products are plain arithmetic. A warp owns a slot (forward and dQ) or a key (dK and dV). It is
// cut into four teams of eight lanes, each of which takes every fourth row; a row passes in pieces
// of 16 bytes, eight of them side by side, so that a row of 64 halves is one access of a team.
#include "tessera/attention/engines/gather_parts.h"
#include "tessera/core/create.h"
#include "tessera/core/math.h"

namespace tessera::lists {
namespace {

__device__ inline float exponential(float x) {
  return __expf(x);
}
__device__ inline double exponential(double x) {
  return math::exp(x);
}

// Rows of a team on their way at once.
template <int kEach>
constexpr int kAtOnce = kEach <= 8    ? 4
                        : kEach <= 16 ? 2
                                      : 1;

struct SlotPlace {
  int b, h, slot, query;
};
template <class T>
__device__ SlotPlace place_of(const Problem<T>& p, int64_t row) {
  SlotPlace at;
  at.slot = static_cast<int>(row % p.slots);
  at.h = static_cast<int>(row / p.slots % p.heads);
  at.b = static_cast<int>(row / p.slots / p.heads);
  at.query = p.query_of(at.b, at.h, at.slot);
  return at;
}

// The keys of a slot, 32 at a time, one for each lane; −1 for those that do not count.
template <class T>
struct KeyList {
  const Problem<T>& p;
  SlotPlace at;
  const int32_t* list;

  __device__ KeyList(const Problem<T>& problem, const SlotPlace& place)
      : p(problem),
        at(place),
        list(problem.keys.head(place.b, place.h) +
             static_cast<int64_t>(place.slot / problem.slot_width) * problem.keys.width) {}
  __device__ int read(int first) const {
    const int j = first + static_cast<int>(threadIdx.x % 32);
    return j < p.keys.width ? list[j] : -1;
  }
  __device__ int counting(int id) const {
    if (at.query < 0) return -1;
    const int key = Problem<T>::checked(id, p.rule.keys);
    return key >= 0 && p.rule.visible(at.b, at.h, at.query, key) ? key : -1;
  }
};

// fn(key of each of the kAtOnce rows of a team) over all keys of a slot; returns how many of the
// lane's own keys count.
template <int kEach, class T, class Fn>
__device__ int for_each_key(const KeyList<T>& keys, const Fn& fn) {
  constexpr int kRows = kAtOnce<kEach>;
  const int team = static_cast<int>(threadIdx.x % 32) / kTeam;
  int next = keys.read(0), count = 0;
  for (int first = 0; first < keys.p.keys.width; first += 32) {
    const int own = keys.counting(next);
    next = keys.read(first + 32);
    count += own >= 0 ? 1 : 0;
    if (__ballot_sync(cuda::kAllLanes, own >= 0) == 0) continue;
#pragma unroll 1
    for (int step = 0; step < 32 / kTeams; step += kRows) {
      int key[kRows];
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        key[u] = __shfl_sync(cuda::kAllLanes, own, (step + u) * kTeams + team);
      }
      fn(key);
    }
  }
  return count;
}

template <class T, int kEach>
__global__ void __launch_bounds__(kPairThreads)
    attend_kernel(const __grid_constant__ Problem<T> p, dense::Heads<T> out,
                  cuda::Compute<T>* lse) {
  using C = cuda::Compute<T>;
  constexpr int kRows = kAtOnce<kEach>;
  const int64_t row = cuda::thread_index() / 32;
  if (row >= static_cast<int64_t>(p.batch) * p.heads * p.slots) return;
  const SlotPlace at = place_of(p, row);
  const T* keys = p.k.at(at.b, at.h / p.group);
  const T* values = p.v.at(at.b, at.h / p.group);
  C q[kEach], sum[kEach] = {};
  Part<T, kEach> query;
  query.load(p.q.at(at.b, at.h) + at.query * p.q.row, p.width, at.query >= 0);
  set(q, query);
  const C scale = static_cast<C>(p.scale);
  C top = -INFINITY, total = 0;
  const int count = for_each_key<kEach>(KeyList<T>(p, at), [&](const int(&key)[kRows]) {
    Part<T, kEach> k[kRows], v[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      k[u].load(keys + key[u] * p.k.row, p.width, key[u] >= 0);
      v[u].load(values + key[u] * p.v.row, p.value_width, key[u] >= 0);
    }
    C s[kRows], best = top;
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const C dot = product(q, k[u]);
      s[u] = key[u] >= 0 ? dot * scale : static_cast<C>(-INFINITY);
      best = max(best, s[u]);
    }
    const C shift = best == -INFINITY ? C{0} : best;
    const C shrink = exponential(top - shift);
    top = best;
    total *= shrink;
#pragma unroll
    for (int e = 0; e < kEach; ++e) sum[e] *= shrink;
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const C w = exponential(s[u] - shift);
      total += w;
      add(sum, w, v[u]);
    }
  });
  count_entries(p, count);
  const C best = over_teams(top, cuda::Max());
  const C shrink = top == -INFINITY ? C{0} : exponential(top - best);
  total = over_teams(total * shrink, cuda::Sum());
#pragma unroll
  for (int e = 0; e < kEach; ++e) sum[e] = over_teams(sum[e] * shrink, cuda::Sum());
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane == 0) lse[row] = total == 0 ? static_cast<C>(-INFINITY) : best + math::log(total);
  if (lane < kTeam) {
    store_part(out.at(at.b, at.h) + at.slot * out.row, p.value_width, sum,
               total == 0 ? C{0} : 1 / total);
  }
}

template <class T>
struct Statistics {
  using C = cuda::Compute<T>;
  dense::Heads<const T> out, grad_out;
  const C* lse;
  const C* grad_lse;  // may be null
  C* delta;           // ⟨dO, O⟩ − dL
};

// dQ_s = scale Σ_j P_sj (⟨dO_s, v_j⟩ − δ_s) k_j, and δ.
template <class T, int kEach>
__global__ void __launch_bounds__(kPairThreads)
    queries_kernel(const __grid_constant__ Problem<T> p, const __grid_constant__ Statistics<T> s,
                   dense::Heads<T> grad_q) {
  using C = cuda::Compute<T>;
  constexpr int kRows = kAtOnce<kEach>;
  const int64_t row = cuda::thread_index() / 32;
  if (row >= static_cast<int64_t>(p.batch) * p.heads * p.slots) return;
  const SlotPlace at = place_of(p, row);
  const T* keys = p.k.at(at.b, at.h / p.group);
  const T* values = p.v.at(at.b, at.h / p.group);
  C q[kEach], o[kEach], sum[kEach] = {};
  Part<T, kEach> part;
  part.load(p.q.at(at.b, at.h) + at.query * p.q.row, p.width, at.query >= 0);
  set(q, part);
  part.load(s.grad_out.at(at.b, at.h) + at.slot * s.grad_out.row, p.value_width, true);
  set(o, part);
  part.load(s.out.at(at.b, at.h) + at.slot * s.out.row, p.value_width, true);
  const C down = s.grad_lse != nullptr ? s.grad_lse[row] : C{0};
  const C delta = product(o, part) - down;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane == 0) s.delta[row] = delta;
  const C lse = s.lse[row], scale = static_cast<C>(p.scale);
  if (lse > -INFINITY) {
    for_each_key<kEach>(KeyList<T>(p, at), [&](const int(&key)[kRows]) {
      Part<T, kEach> k[kRows], v[kRows];
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        k[u].load(keys + key[u] * p.k.row, p.width, key[u] >= 0);
        v[u].load(values + key[u] * p.v.row, p.value_width, key[u] >= 0);
      }
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        const C score = product(q, k[u]) * scale;
        const C slope = product(o, v[u]) - delta;
        add(sum, key[u] >= 0 ? exponential(score - lse) * slope : C{0}, k[u]);
      }
    });
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) sum[e] = over_teams(sum[e], cuda::Sum());
  if (lane < kTeam) {
    store_part(grad_q.at(at.b, at.h) + at.slot * grad_q.row, p.width, sum, scale);
  }
}

// dK_j = scale Σ_s P_sj (⟨dO_s, v_j⟩ − δ_s) q_s and dV_j = Σ_s P_sj dO_s, over all places at which
// key j is listed and all slots of the list.
template <class T, int kEach>
__global__ void __launch_bounds__(kPairThreads)
    keys_kernel(const __grid_constant__ Problem<T> p, const __grid_constant__ Statistics<T> s,
                Inverse inverse, dense::Heads<T> grad_k, dense::Heads<T> grad_v) {
  using C = cuda::Compute<T>;
  constexpr int kRows = kAtOnce<kEach>;
  const int key_heads = p.heads / p.group, keys = p.rule.keys;
  const int64_t row = cuda::thread_index() / 32;
  if (row >= static_cast<int64_t>(p.batch) * key_heads * keys) return;
  const int j = static_cast<int>(row % keys);
  const int kh = static_cast<int>(row / keys % key_heads);
  const int b = static_cast<int>(row / keys / key_heads);
  const int lane = static_cast<int>(threadIdx.x % 32), team = lane / kTeam;
  const C scale = static_cast<C>(p.scale);
  C k[kEach], v[kEach], grad_key[kEach] = {}, grad_value[kEach] = {};
  Part<T, kEach> part;
  part.load(p.k.at(b, kh) + j * p.k.row, p.width, true);
  set(k, part);
  part.load(p.v.at(b, kh) + j * p.v.row, p.value_width, true);
  set(v, part);

  for (int h = kh * p.group; h < (kh + 1) * p.group; ++h) {
    const IndexRange places = inverse.of(p.keys.head_of(b, h), j);
    const int64_t pairs = static_cast<int64_t>(places.end - places.begin) * p.slot_width;
    const int64_t slots = (static_cast<int64_t>(b) * p.heads + h) * p.slots;
    const T* queries = p.q.at(b, h);
    const T* grads = s.grad_out.at(b, h);
    for (int64_t first = 0; first < pairs; first += 32) {
      // A pair for each lane: its slot, query, logsumexp and δ.
      int slot = -1, query = -1;
      C lse = 0, delta = 0;
      if (const int64_t pair = first + lane; pair < pairs) {
        const auto place = static_cast<int>(inverse.places[places.begin + pair / p.slot_width]);
        slot = place / p.keys.width * p.slot_width + static_cast<int>(pair % p.slot_width);
        query = p.query_of(b, h, slot);
        lse = s.lse[slots + slot];
        delta = s.delta[slots + slot];
        if (query < 0 || lse == -INFINITY || !p.rule.visible(b, h, query, j)) query = -1;
      }
      if (__ballot_sync(cuda::kAllLanes, query >= 0) == 0) continue;
#pragma unroll 1
      for (int step = 0; step < 32 / kTeams; step += kRows) {
        Part<T, kEach> q[kRows], o[kRows];
        C its_lse[kRows], its_delta[kRows];
        bool there[kRows];
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const int from = (step + u) * kTeams + team;
          const int i = __shfl_sync(cuda::kAllLanes, query, from);
          const int at = __shfl_sync(cuda::kAllLanes, slot, from);
          its_lse[u] = __shfl_sync(cuda::kAllLanes, lse, from);
          its_delta[u] = __shfl_sync(cuda::kAllLanes, delta, from);
          there[u] = i >= 0;
          q[u].load(queries + i * p.q.row, p.width, there[u]);
          o[u].load(grads + at * s.grad_out.row, p.value_width, there[u]);
        }
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const C score = product(k, q[u]) * scale;
          const C slope = product(v, o[u]) - its_delta[u];
          const C w = there[u] ? exponential(score - its_lse[u]) : C{0};
          add(grad_value, w, o[u]);
          add(grad_key, there[u] ? w * slope : C{0}, q[u]);
        }
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    grad_key[e] = over_teams(grad_key[e], cuda::Sum());
    grad_value[e] = over_teams(grad_value[e], cuda::Sum());
  }
  if (lane < kTeam) {
    store_part(grad_k.at(b, kh) + j * grad_k.row, p.width, grad_key, scale);
    store_part(grad_v.at(b, kh) + j * grad_v.row, p.value_width, grad_value, C{1});
  }
}

}  // namespace

void attend_pairs(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                  const Tensor& key_lists, const AttentionOptions& options,
                  const AttentionResult& to) {
  TensorList keep;
  visit_parts(q, v, [&]<class T, int kEach>() {
    const auto p = problem_of<T>(q, k, v, query_lists, key_lists, options, keep);
    cuda::launch("gather_attention", q.device(), attend_kernel<T, kEach>,
                 blocks_of(to.logsumexp.numel()), kPairThreads, 0, p, dense::Heads<T>(to.output),
                 cuda::data<cuda::Compute<T>>(to.logsumexp));
  });
}

void backward_pairs(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                    const Tensor& key_lists, const AttentionOptions& options,
                    const AttentionResult& forward, const Tensor& grad_out, const Tensor& grad_lse,
                    const Gradients& to) {
  TensorList keep;
  const Tensor& lse = forward.logsumexp;
  const Tensor delta = empty(lse.shape(), {lse.dtype(), lse.device()});
  const Inverse inverse = invert(key_lists, k.size(2), keep);
  visit_parts(q, v, [&]<class T, int kEach>() {
    using C = cuda::Compute<T>;
    const auto p = problem_of<T>(q, k, v, query_lists, key_lists, options, keep);
    const Statistics<T> s{
        dense::Heads<const T>(forward.output), dense::Heads<const T>(grad_out), cuda::data<C>(lse),
        grad_lse.defined() ? cuda::data<C>(grad_lse) : nullptr, cuda::data<C>(delta)};
    cuda::launch("gather_attention", q.device(), queries_kernel<T, kEach>, blocks_of(lse.numel()),
                 kPairThreads, 0, p, s, dense::Heads<T>(to.query));
    cuda::launch("gather_attention", q.device(), keys_kernel<T, kEach>,
                 blocks_of(k.size(0) * k.size(1) * k.size(2)), kPairThreads, 0, p, s, inverse,
                 dense::Heads<T>(to.key), dense::Heads<T>(to.value));
  });
}

}  // namespace tessera::lists
