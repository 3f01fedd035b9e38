// What a score functor (score.h) sees of a score, and how it is evaluated and differentiated, on
// both devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "tessera/core/dual.h"
#include "tessera/core/inline.h"

namespace tessera {

// Where a score stands: indices in the tensors, and positions (see AttentionOptions).
struct ScorePlace {
  int batch = 0, head = 0, query = 0, key = 0;
  int query_position = 0, key_position = 0;
  TESSERA_HD int distance() const { return query_position - key_position; }  // ≥ 0: the past
};

// What scores a functor is asked for: (B, H, N, M).
struct ScoreSizes {
  int64_t batch = 0, heads = 0, queries = 0, keys = 0;
};

// Where scores may differ.
enum class ScoreAxis : uint8_t { batch, head, query, key };

constexpr int kMaxTables = 3;

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

// Whether scores that differ along an axis never read one entry of a table.
template <class F>
bool score_differs(const F& f, ScoreAxis axis) {
  if constexpr (requires { f.differs(axis); }) return f.differs(axis);
  return false;
}

}  // namespace detail

}  // namespace tessera
