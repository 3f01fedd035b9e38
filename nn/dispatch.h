// Rows on their way to experts and back.
#pragma once

#include <optional>

#include "tessera/core/tensor.h"

namespace tessera {

// A list of (row, expert) pairs in the order of the experts, rows of one expert in theirs (with a
// capacity, first choices before second ones).
struct Dispatch {
  Tensor rows;     // i64 (R): which row of x
  Tensor experts;  // i64 (R)
  Tensor offsets;  // i64 (n + 1): expert e has the pairs offsets[e] … offsets[e + 1] − 1
};

// The pairs of weights (T, n) that are not 0, or those of indices (T, k) where they are given. With
// a capacity each expert takes that many pairs at most, the rest is dropped. The list ends with the
// pairs; on CUDA, where its length must not depend on values, with unused ones of weight whatever:
// grouped_matmul gives 0 for them. No gradient.
Dispatch dispatch(const Tensor& weights, const Tensor& indices = {},
                  std::optional<int64_t> capacity = {});

// x (T, d) → (R, d): the row of every pair. The adjoint adds up.
Tensor gather_rows(const Tensor& x, const Dispatch& d);

// y (R, d) → (T, d): every row the sum of its pairs, each times weights[row, expert] of (T, n).
Tensor combine(const Tensor& y, const Dispatch& d, const Tensor& weights);

}  // namespace tessera
