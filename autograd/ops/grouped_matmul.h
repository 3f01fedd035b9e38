// Products of rows with the matrix of their group: what experts compute on the rows routed to them.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// Y[r] = X[r] W[g] + b[g] for the rows offsets[g] ≤ r < offsets[g + 1] of group g.
//   X (R, K) with rows in the order of their groups, W (n, K, N), offsets i64 (n + 1) ascending
//   from 0 to at most R, b (n, N) or undefined → (R, N). Groups may be empty; rows from offsets[n]
//   on belong to none: they give 0 and receive no gradient.
// On CUDA the offsets are read on the device alone, so the step can be recorded; there they are not
// checked. One dtype, f32 or f64 (halves on CUDA), mixed ones promoted. Differentiable twice in X,
// W and b.
Tensor grouped_matmul(const Tensor& x, const Tensor& w, const Tensor& offsets,
                      const Tensor& bias = {});

// Rows that grouped_matmul has multiplied forward on the CPU since the start: a test counts with it
// which experts were computed.
int64_t grouped_matmul_rows();

// Where the groups of 0 ≤ ids < groups begin once `ids` (R) are sorted: offsets[g] = how many are
// less than g, i64 (groups + 1). Ids may be `groups` or more: they stand behind. Not
// differentiable.
Tensor group_offsets(const Tensor& ids, int64_t groups);

}  // namespace tessera
