// Score functors on the pairs of lists, on CUDA: one thread per pair. gather_scored.cu computes
// what stands around them.
#pragma once

#include "tessera/attention/engines/entry_rule.h"
#include "tessera/attention/engines/gather_slots.h"

#ifdef __CUDACC__
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#endif

namespace tessera::lists {

// Tensors (B, H, S, K) of f64 or f32, dense.
struct PairScores {
  EntryRule rule;
  Lists queries, keys;  // queries not set: one list per query
  int batch = 0, heads = 0, slots = 0, slot_width = 1;
  bool f64 = false;
  Device device;
  const void* tables[kMaxTables] = {};
  const void* products = nullptr;  // before the functor
  void* scores = nullptr;          // forward: after it, −inf for pairs that do not count
  void* gradients = nullptr;       // backward: with respect to scores → to products
  // Backward, per pair: the entry of a table that it reads, −1 for none, and that entry's gradient;
  // null where it is not wanted.
  int32_t* table_index[kMaxTables] = {};
  void* table_gradients[kMaxTables] = {};

  unsigned long long* entries = nullptr;  // where a forward counts; null: nowhere

  int64_t count() const { return int64_t{batch} * heads * slots * keys.width; }

  // Whether a pair counts, and its place.
  TESSERA_HD bool find(int64_t pair, ScorePlace& at) const {
    const int64_t row = pair / keys.width;
    const int slot = static_cast<int>(row % slots);
    const int h = static_cast<int>(row / slots % heads), b = static_cast<int>(row / slots / heads);
    const int query = queries.is_set() ? queries.head(b, h)[slot] : slot;
    const int64_t place = int64_t{slot / slot_width} * keys.width + pair % keys.width;
    const int key = keys.head(b, h)[place];
    if (query < 0 || key < 0 || !rule.visible(b, h, query, key)) return false;
    at = rule.place(b, h, query, key);
    return true;
  }
};

#ifdef __CUDACC__

template <class F, class T>
__global__ void pair_forward_kernel(const __grid_constant__ PairScores p, const F f,
                                    int64_t count) {
  using Features = detail::ScoreFeatures<F, T>;
  const T* tables[kMaxTables];
  for (int n = 0; n < kMaxTables; ++n) tables[n] = static_cast<const T*>(p.tables[n]);
  int entries = 0;
  for (int64_t i = cuda::thread_index(); i < count; i += cuda::thread_count()) {
    ScorePlace at;
    T s = static_cast<T>(-INFINITY);
    if (p.find(i, at)) {
      const Features x(f, at, tables);
      s = detail::score_value(f, static_cast<const T*>(p.products)[i], x.values,
                              std::make_index_sequence<Features::kCount>{});
      ++entries;
    }
    static_cast<T*>(p.scores)[i] = s;
  }
  entries = cuda::warp_reduce(entries, cuda::Sum());
  if (p.entries != nullptr && threadIdx.x % cuda::kWarp == 0 && entries > 0) {
    atomicAdd(p.entries, static_cast<unsigned long long>(entries));
  }
}

template <class F, class T>
__global__ void pair_backward_kernel(const __grid_constant__ PairScores p, const F f,
                                     int64_t count) {
  using Features = detail::ScoreFeatures<F, T>;
  constexpr auto index = std::make_index_sequence<Features::kCount>{};
  const T* tables[kMaxTables];
  for (int n = 0; n < kMaxTables; ++n) tables[n] = static_cast<const T*>(p.tables[n]);
  T* gradients = static_cast<T*>(p.gradients);
  for (int64_t i = cuda::thread_index(); i < count; i += cuda::thread_count()) {
    ScorePlace at;
    const bool counts = p.find(i, at);
    T slope = 0;
    if (counts) {
      const Features x(f, at, tables);
      const T s = static_cast<const T*>(p.products)[i], g = gradients[i];
      slope = g * detail::score_slope(f, s, x.values, -1, index);
      for (int k = 0; k < Features::kTables; ++k) {
        if (p.table_index[k] == nullptr) continue;
        p.table_index[k][i] = static_cast<int32_t>(x.index[k]);
        static_cast<T*>(p.table_gradients[k])[i] =
            x.index[k] < 0 ? T{0} : g * detail::score_slope(f, s, x.values, k, index);
      }
    } else {
      for (int k = 0; k < Features::kTables; ++k) {
        if (p.table_index[k] != nullptr) p.table_index[k][i] = -1;
      }
    }
    gradients[i] = slope;
  }
}

// The kernels of a functor behind a plain function.
template <class F>
void launch_pairs(const void* functor, const PairScores& p, bool backward) {
  const F f = *static_cast<const F*>(functor);
  const int64_t count = p.count();
  auto kernel = p.f64 ? pair_forward_kernel<F, double> : pair_forward_kernel<F, float>;
  if (backward) kernel = p.f64 ? pair_backward_kernel<F, double> : pair_backward_kernel<F, float>;
  cuda::launch(F::name, p.device, kernel, cuda::blocks_for(count, 256), 256, 0, p, f, count);
}
#endif

}  // namespace tessera::lists
