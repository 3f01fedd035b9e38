#include "tessera/nn/dispatch.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/grouped_matmul.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

Tensor counting(int64_t n, Device device) {
  return arange(0, static_cast<double>(n), 1, {DType::i64, device});
}

// Pairs in the order in which experts take them; expert n: nobody.
struct Pairs {
  Tensor rows;
  Tensor experts;

  Pairs at(const Tensor& order) const {
    return {index_select(rows, 0, order), index_select(experts, 0, order)};
  }
};

Pairs pairs_of_indices(const Tensor& indices) {  // all first choices, then all second ones, …
  const Tensor order = transpose(indices, 0, 1);
  return {flatten(expand(counting(indices.size(0), indices.device()), order.shape())),
          flatten(order)};
}

Pairs pairs_of_weights(const Tensor& weights) {
  const Tensor w = transpose(weights, 0, 1);
  const Tensor expert = expand(unsqueeze(counting(w.size(0), w.device()), 1), w.shape());
  const Tensor nobody = full({}, static_cast<double>(w.size(0)), {DType::i64, weights.device()});
  return {flatten(expand(counting(w.size(1), w.device()), w.shape())),
          flatten(where(gt(w, 0), expert, nobody))};
}

// Sorted pairs, those beyond the capacity given to nobody.
Pairs within_capacity(const Pairs& sorted, const Tensor& offsets, int64_t capacity) {
  const int64_t n = offsets.numel() - 1;
  const Tensor place = counting(sorted.rows.numel(), sorted.rows.device());
  const Tensor rank = place - index_select(offsets, 0, sorted.experts);
  const Tensor nobody = full({}, static_cast<double>(n), {DType::i64, offsets.device()});
  const Pairs kept{sorted.rows,
                   where(lt(rank, static_cast<double>(capacity)), sorted.experts, nobody)};
  return kept.at(argsort(kept.experts));
}

}  // namespace

Dispatch dispatch(const Tensor& weights, const Tensor& indices, std::optional<int64_t> capacity) {
  NoGrad off;
  const int64_t n = weights.size(1);
  Pairs pairs = indices.defined() ? pairs_of_indices(indices) : pairs_of_weights(weights.detach());
  pairs = pairs.at(argsort(pairs.experts));
  Tensor offsets = group_offsets(pairs.experts, n);
  int64_t length = pairs.rows.numel();
  if (capacity) {
    pairs = within_capacity(pairs, offsets, *capacity);
    offsets = group_offsets(pairs.experts, n);
    length = std::min(length, n * *capacity);
  }
  if (offsets.device().is_cpu()) length = offsets.data<int64_t>()[n];
  const Tensor experts = slice(pairs.experts, 0, 0, length);
  return {slice(pairs.rows, 0, 0, length),
          minimum(experts, full({}, static_cast<double>(n - 1), {DType::i64, experts.device()})),
          offsets};
}

Tensor gather_rows(const Tensor& x, const Dispatch& d) {
  return index_select(x, 0, d.rows);
}

Tensor combine(const Tensor& y, const Dispatch& d, const Tensor& weights) {
  const Tensor place = d.rows * static_cast<double>(weights.size(1)) + d.experts;
  const Tensor share = index_select(flatten(weights), 0, place).to(y.dtype());
  const Tensor none = zeros({weights.size(0), y.size(1)}, {y.dtype(), y.device()});
  return index_add(none, 0, d.rows, y * unsqueeze(share, 1));
}

}  // namespace tessera
