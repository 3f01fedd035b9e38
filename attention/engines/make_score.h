// Making a score functor known to the engines: its loops over rows on the CPU, its kernels on CUDA,
// its composition of plain ops. For files that define functors; a .cpp that calls make_score is
// compiled as CUDA too where the build has it.
#pragma once

#include <cstring>

#include "tessera/attention/engines/score.h"
#include "tessera/autograd/pointwise.h"

#ifdef __CUDACC__
#include "tessera/attention/engines/gather_scores.h"
#include "tessera/attention/engines/tile_kernels.h"
#endif

namespace tessera {

namespace detail {

template <class F, class T>
void score_forward_row(const void* functor, const ScoreRow& row, const T* const* tables,
                       T* scores) {
  using Features = ScoreFeatures<F, T>;
  const F f = *static_cast<const F*>(functor);
  for (int64_t j = 0; j < row.count; ++j) {
    if (Features::kCount > 0 && !row.counts(j)) continue;
    const Features x(f, row.place(j), tables);
    scores[j] = score_value(f, scores[j], x.values, std::make_index_sequence<Features::kCount>{});
  }
}

template <class F, class T>
void score_backward_row(const void* functor, const ScoreRow& row, const T* const* tables,
                        const T* scores, T* gradients, T* const* table_gradients) {
  using Features = ScoreFeatures<F, T>;
  constexpr auto index = std::make_index_sequence<Features::kCount>{};
  const F f = *static_cast<const F*>(functor);
  for (int64_t j = 0; j < row.count; ++j) {
    if (!row.counts(j)) continue;
    const Features x(f, row.place(j), tables);
    const T g = gradients[j];
    if constexpr (Features::kTables > 0) {
      for (int k = 0; k < Features::kTables; ++k) {
        if (x.index[k] < 0 || table_gradients[k] == nullptr) continue;
        table_gradients[k][x.index[k]] += g * score_slope(f, scores[j], x.values, k, index);
      }
    }
    gradients[j] = g * score_slope(f, scores[j], x.values, -1, index);
  }
}

// The same functor as a pointwise op on whole tensors.
template <class F, size_t... I>
Tensor score_pointwise(const F& f, const Tensor& scores, const TensorList& features,
                       std::index_sequence<I...>) {
  return pointwise(f, scores, features[I]...);
}

template <class F>
Tensor score_definition(const void* functor, const Tensor& scores, const TensorList& tables,
                        const ScoreKernels::Places& places) {
  constexpr int kTables = table_count<F>(), kNumbers = number_count<F>();
  const F f = *static_cast<const F*>(functor);
  const Shape& shape = scores.shape();
  auto for_each = [&](const auto& fn) {
    int64_t n = 0;
    for (int64_t b = 0; b < shape[0]; ++b) {
      for (int64_t h = 0; h < shape[1]; ++h) {
        for (int64_t i = 0; i < shape[2]; ++i) {
          for (int64_t j = 0; j < shape[3]; ++j) fn(n++, places(b, h, i, j));
        }
      }
    }
  };
  TensorList features;
  if constexpr (kTables > 0) {
    for (int k = 0; k < kTables; ++k) {
      const Tensor at = empty({scores.numel()}, {DType::i64, {}});
      auto* index = at.data<int64_t>();
      std::vector<double> known(static_cast<size_t>(scores.numel()));
      for_each([&](int64_t n, const ScorePlace& p) {
        const int64_t i = f.index(k, p);
        index[n] = std::max<int64_t>(i, 0);
        known[static_cast<size_t>(n)] = i < 0 ? 0 : 1;
      });
      const Tensor flat = reshape(tables[static_cast<size_t>(k)], {-1});
      const Tensor mask = from_values(known, {scores.numel()}).to(scores.dtype());
      features.push_back(
          reshape(index_select(flat, 0, at.to(flat.device())) * mask.to(flat.device()), shape));
    }
  }
  if constexpr (kNumbers > 0) {
    for (int k = 0; k < kNumbers; ++k) {
      std::vector<double> numbers(static_cast<size_t>(scores.numel()));
      for_each([&](int64_t n, const ScorePlace& p) {
        numbers[static_cast<size_t>(n)] = f.number(k, p);
      });
      features.push_back(from_values(numbers, shape).to(scores.dtype()).to(scores.device()));
    }
  }
  return score_pointwise(f, scores, features, std::make_index_sequence<kTables + kNumbers>{});
}

template <class F>
Shape score_table_shape(const void* functor, [[maybe_unused]] int table,
                        [[maybe_unused]] const ScoreSizes& sizes) {
  [[maybe_unused]] const F& f = *static_cast<const F*>(functor);
  if constexpr (table_count<F>() > 0) {
    return f.table_shape(table, sizes);
  } else {
    return {};
  }
}

}  // namespace detail

// Binds a functor to its tables (dense, of the dtype of the queries or f32). The functor is plain
// data.
template <class F>
Score make_score(const F& f, TensorList tables = {}) {
  static_assert(std::is_trivially_copyable_v<F>);
  static_assert(detail::table_count<F>() <= kMaxTables);
  check(static_cast<int>(tables.size()) == detail::table_count<F>(), "{}: wants {} tables, got {}",
        F::name, detail::table_count<F>(), tables.size());
  struct Holder : ScoreKernels {
    F copy;
    explicit Holder(const F& functor_) : copy(functor_) {
      name = F::name;
      functor = &copy;
      ScoreKernels::tables = detail::table_count<F>();
      forward_f32 = detail::score_forward_row<F, float>;
      forward_f64 = detail::score_forward_row<F, double>;
      backward_f32 = detail::score_backward_row<F, float>;
      backward_f64 = detail::score_backward_row<F, double>;
      definition = detail::score_definition<F>;
      table_shape = detail::score_table_shape<F>;
      for (int axis = 0; axis < 4; ++axis) {
        differs[axis] = detail::score_differs(copy, static_cast<ScoreAxis>(axis));
      }
#ifdef __CUDACC__
      launch = tile::launch<F>;
      launch_pairs = lists::launch_pairs<F>;
#endif
    }
  };
  return {std::make_shared<const Holder>(f), std::move(tables)};
}

}  // namespace tessera
