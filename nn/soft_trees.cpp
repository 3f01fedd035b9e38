#include "tessera/nn/soft_trees.h"

#include <atomic>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

std::atomic<int64_t> nodes_evaluated{0};

struct Lists {
  TensorList leaves, inner;
};

// Fills the lists below node v, left before right; left(v, p) is the probability of going on to the
// left child of a node that is reached with probability p.
template <class Left>
void descend(int64_t v, const Tensor& p, int64_t leaves, const Left& left, Lists& lists) {
  if (v >= leaves - 1) {
    lists.leaves.push_back(p);
    return;
  }
  lists.inner.push_back(p);
  const Tensor l = left(v, p);
  descend(2 * v + 1, l, leaves, left, lists);
  descend(2 * v + 2, p - l, leaves, left, lists);
}

// The rows with p > 0.
Tensor reached(const Tensor& p) {
  const std::vector<double> values = p.to_vector<double>();
  std::vector<int64_t> rows;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] > 0) rows.push_back(static_cast<int64_t>(i));
  }
  return from_values(rows, {static_cast<int64_t>(rows.size())}).to(p.device());
}

Tensor in_full(const Tensor& x) {
  return is_half(x.dtype()) ? x.to(DType::f32) : x;
}

Options like(const Tensor& x) {
  return {x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device()};
}

}  // namespace

SoftTrees::SoftTrees(int64_t width, int64_t leaves, int64_t trees, double gamma, bool bias)
    : nodes(Linear::uniform(width, (leaves - 1) * trees, bias, gamma / 100)),
      leaves_(leaves),
      trees_(trees),
      gamma_(gamma) {}

TreeProbabilities SoftTrees::operator()(const Tensor& x) const {
  const int64_t rows = x.size(0);
  const Tensor s = reshape(smooth_step(in_full(nodes(x)), gamma_), {rows, leaves_ - 1, trees_});
  nodes_evaluated += s.numel();
  Lists lists;
  descend(
      0, ones({rows, trees_}, like(x)), leaves_,
      [&](int64_t v, const Tensor& p) { return p * select(s, 1, v); }, lists);
  return {stack(lists.leaves, 2), stack(lists.inner, 2)};
}

TreeProbabilities SoftTrees::conditional(const Tensor& x) const {
  TensorList leaves, inner;
  for (int64_t t = 0; t < trees_; ++t) {
    Lists lists;
    const auto left = [&](int64_t v, const Tensor& p) {
      const Tensor rows = reached(p);
      nodes_evaluated += rows.numel();
      if (rows.numel() == 0) return p;  // 0 everywhere, left and right
      const int64_t at = v * trees_ + t;
      const Tensor bias = nodes.bias.defined() ? slice(nodes.bias, 0, at, at + 1) : Tensor();
      const Tensor y = linear(index_select(x, 0, rows), slice(nodes.weight, 0, at, at + 1), bias);
      const Tensor s = smooth_step(in_full(squeeze(y, 1)), gamma_);
      return p * index_add(zeros(p.shape(), like(x)), 0, rows, s);
    };
    descend(0, ones({x.size(0)}, like(x)), leaves_, left, lists);
    leaves.push_back(stack(lists.leaves, 1));
    inner.push_back(stack(lists.inner, 1));
  }
  return {stack(leaves, 1), stack(inner, 1)};
}

int64_t tree_nodes_evaluated() {
  return nodes_evaluated;
}

}  // namespace tessera
