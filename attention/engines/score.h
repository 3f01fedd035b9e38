// Score functors: what becomes of a scaled product s = scale · ⟨q, k⟩ before the softmax.
//
// A score functor is a pointwise functor (autograd/pointwise.h) of s and of features that come from
// where the score stands: first entries of tables, at an index that it computes itself, then plain
// numbers. It is differentiated by dual numbers, with respect to s and to the tables.
//
//   struct Alibi {                                    // s − slope_h · (distance)
//     static constexpr std::string_view name = "alibi";
//     static constexpr int tables = 1, numbers = 1;
//     TESSERA_HD int64_t index(int, const ScorePlace& at) const { return at.head; }
//     TESSERA_HD double number(int, const ScorePlace& at) const { return at.distance(); }
//     template <class T> TESSERA_HD T operator()(T s, T slope, T distance) const {
//       return s - slope * distance;
//     }
//   };
//   Score alibi(const Tensor& slopes) { return make_score(Alibi{}, {slopes}); }
//
// An index of −1 reads 0 and gets no gradient. Functors are asked for visible entries only. A value
// of −inf hides an entry. A .cpp that calls make_score is compiled as CUDA too where the build has
// it. The functors that exist are in scores.h.
#pragma once

#include <cstring>
#include <functional>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/core/create.h"

namespace tessera {

// Where a score stands: indices in the tensors, and positions (see AttentionOptions).
struct ScorePlace {
  int batch = 0, head = 0, query = 0, key = 0;
  int query_position = 0, key_position = 0;
  TESSERA_HD int distance() const { return query_position - key_position; }  // ≥ 0: the past
};

// A row of scores: one query, some keys.
struct ScoreRow {
  ScorePlace at;                  // its key is not set
  const int32_t* keys = nullptr;  // of each entry; their positions:
  const int32_t* key_positions = nullptr;
  const uint8_t* visible = nullptr;  // entries that count; null: all
  int64_t count = 0;

  ScorePlace place(int64_t j) const {
    ScorePlace p = at;
    p.key = keys[j];
    p.key_position = key_positions[j];
    return p;
  }
  bool counts(int64_t j) const { return visible == nullptr || visible[j] != 0; }
};

constexpr int kMaxTables = 3;

// A functor as engines see it: kernels for rows on the CPU, and the function on whole tensors.
struct ScoreKernels {
  std::string_view name;
  const void* functor = nullptr;
  int tables = 0;
  // scores ← f(scores)
  void (*forward_f32)(const void*, const ScoreRow&, const float* const* tables, float*) = nullptr;
  void (*forward_f64)(const void*, const ScoreRow&, const double* const* tables, double*) = nullptr;
  // gradients with respect to f → with respect to scores; those of tables are added.
  void (*backward_f32)(const void*, const ScoreRow&, const float* const* tables,
                       const float* scores, float* gradients,
                       float* const* table_gradients) = nullptr;
  void (*backward_f64)(const void*, const ScoreRow&, const double* const* tables,
                       const double* scores, double* gradients,
                       double* const* table_gradients) = nullptr;
  // scores (B, H, N, M), tables, and the place of every entry, by plain ops.
  using Places = std::function<ScorePlace(int64_t b, int64_t h, int64_t i, int64_t j)>;
  Tensor (*definition)(const void*, const Tensor& scores, const TensorList& tables,
                       const Places& places) = nullptr;
};

// A functor with its tables; the identity by default.
class Score {
 public:
  Score() = default;
  Score(std::shared_ptr<const ScoreKernels> kernels, TensorList tables)
      : kernels_(std::move(kernels)), tables_(std::move(tables)) {}

  bool is_identity() const { return kernels_ == nullptr; }
  std::string_view name() const { return is_identity() ? "identity" : kernels_->name; }
  const ScoreKernels& kernels() const { return *kernels_; }
  const TensorList& tables() const { return tables_; }
  Score with(TensorList tables) const { return {kernels_, std::move(tables)}; }

 private:
  std::shared_ptr<const ScoreKernels> kernels_;
  TensorList tables_;
};

namespace detail {

template <class F>
constexpr int table_count() {
  if constexpr (requires { F::tables; }) return F::tables;
  return 0;
}
template <class F>
constexpr int number_count() {
  if constexpr (requires { F::numbers; }) return F::numbers;
  return 0;
}

// The features of an entry: table entries, then numbers; `index` of the tables on the way.
template <class F, class T>
struct ScoreFeatures {
  static constexpr int kTables = table_count<F>(), kCount = kTables + number_count<F>();
  T values[kCount + 1];
  int64_t index[kTables + 1];

  TESSERA_HD ScoreFeatures(const F& f, const ScorePlace& at, const T* const* tables) {
    if constexpr (kTables > 0) {
      for (int k = 0; k < kTables; ++k) {
        index[k] = f.index(k, at);
        values[k] = index[k] < 0 ? T{0} : tables[k][index[k]];
      }
    }
    if constexpr (kCount > kTables) {
      for (int k = 0; k < kCount - kTables; ++k) {
        values[kTables + k] = static_cast<T>(f.number(k, at));
      }
    }
  }
};

template <class F, class T, size_t... I>
TESSERA_HD T score_value(const F& f, T s, [[maybe_unused]] const T* x, std::index_sequence<I...>) {
  return f(s, x[I]...);
}
// ∂f with respect to s (which = −1) or feature `which`.
template <class F, class T, size_t... I>
TESSERA_HD T score_slope(const F& f, T s, [[maybe_unused]] const T* x, int which,
                         std::index_sequence<I...>) {
  auto one = [&](int k) { return static_cast<T>(k == which ? 1 : 0); };
  return f(Dual<T>{s, one(-1)}, Dual<T>{x[I], one(static_cast<int>(I))}...).deriv;
}

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
    }
  };
  return {std::make_shared<const Holder>(f), std::move(tables)};
}

}  // namespace tessera
