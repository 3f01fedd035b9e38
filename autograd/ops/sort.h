// Sorting, selection by rank, and counting. Ties keep their order (the lowest index first); NaN is
// greater than every number. Any dtype. Values are differentiable any number of times.
#pragma once

#include "tessera/autograd/ops/reduce.h"

namespace tessera {

// The k greatest (least) entries along dim in descending (ascending) order, and their indices.
// Throws unless 0 ≤ k ≤ the size.
ValuesIndices topk(const Tensor& x, int64_t k, int64_t dim = -1, bool largest = true);

// Stable; argsort gives the indices alone.
ValuesIndices sort(const Tensor& x, int64_t dim = -1, bool descending = false);
Tensor argsort(const Tensor& x, int64_t dim = -1, bool descending = false);

// The k-th least entry along dim (k = 1 is the least) and its index.
ValuesIndices kth_value(const Tensor& x, int64_t k, int64_t dim = -1, bool keep_dims = false);

// y[…, c] = 1 where ids[…] = c, else 0, for integer ids in [0, classes). Not differentiable.
Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype = DType::f32);

// bincount and unique of a tensor on a device are counted on the host: the size of their results
// depends on the values.

// How often each of 0 … max(ids) occurs, i64, at least `min_length` long; ids of any shape, ≥ 0.
Tensor bincount(const Tensor& ids, int64_t min_length = 0);

// The distinct entries in ascending order, how often each occurs, and for every entry of x (in its
// shape) the place of its value. Entries are integers. Not differentiable.
struct Unique {
  Tensor values;
  Tensor inverse;
  Tensor counts;
};
Unique unique(const Tensor& x);

}  // namespace tessera
