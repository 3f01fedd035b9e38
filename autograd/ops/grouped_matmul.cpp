#include "tessera/autograd/ops/grouped_matmul.h"

#include <atomic>

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/grouped_matmul_cuda.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

std::atomic<int64_t> rows_multiplied{0};

// fn(group, first row, end) for the groups that have rows.
template <class Fn>
void for_groups(const Tensor& offsets, const Fn& fn) {
  const int64_t* at = offsets.data<int64_t>();
  for (int64_t g = 0; g + 1 < offsets.numel(); ++g) {
    if (at[g] < at[g + 1]) fn(g, at[g], at[g + 1]);
  }
}

// The definition: all products with all matrices, of which a row keeps that of its group.
Tensor by_masks(const Tensor& x, const Tensor& w, const Tensor& offsets, const Tensor& bias) {
  const int64_t n = w.size(0);
  const Tensor row = arange(0, static_cast<double>(x.size(0)), 1, {DType::i64, x.device()});
  const Tensor member = logical_and(ge(row, unsqueeze(slice(offsets, 0, 0, n), 1)),
                                    lt(row, unsqueeze(slice(offsets, 0, 1, n + 1), 1)));
  Tensor y = matmul(unsqueeze(x, 0), w);
  if (bias.defined()) y = y + unsqueeze(bias, 1);
  return sum(where(unsqueeze(member, 2), y, zeros({}, {y.dtype(), y.device()})), {0});
}

// y[r] += x[r] w[g].
void add_product(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& offsets) {
  if constexpr (kCuda) {
    if (y.device().is_cuda()) {
      return grouped_product_cuda(y, kernels::contiguous(x), w, offsets, {}, true);
    }
  }
  for_groups(offsets, [&](int64_t g, int64_t begin, int64_t end) {
    kernels::gemm(views::slice(y, 0, begin, end), views::slice(x, 0, begin, end),
                  views::select(w, 0, g), 1, 1);
  });
}

// y = x W_g + b_g; gx = gy W_gᵀ, gW_g = x_gᵀ gy_g, gb_g = Σ gy_g.
struct GroupedMatMul {
  static constexpr std::string_view name = "grouped_matmul";

  Tensor forward(Forward&, const Tensor& x, const Tensor& w, const Tensor& offsets,
                 const Tensor& bias) const {
    const Tensor y = empty({x.size(0), w.size(2)}, {x.dtype(), x.device()});
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        grouped_product_cuda(y, kernels::contiguous(x), w, offsets,
                             bias.defined() ? kernels::contiguous(bias) : bias, false);
        return y;
      }
    }
    for_groups(offsets, [&](int64_t g, int64_t begin, int64_t end) {
      const Tensor rows = views::slice(y, 0, begin, end);
      if (bias.defined())
        kernels::copy(rows, views::expand(views::select(bias, 0, g), rows.shape()));
      kernels::gemm(rows, views::slice(x, 0, begin, end), views::select(w, 0, g), 1,
                    bias.defined() ? 1 : 0);
      rows_multiplied += end - begin;
    });
    kernels::fill(views::slice(y, 0, offsets.data<int64_t>()[w.size(0)], x.size(0)), 0);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = b.input(0), w = b.input(1), offsets = b.input(2);
    const Tensor& g = b.grad();
    if (b.needs(0)) {
      add_product(b.zeroed(0, x.shape(), x.dtype()), g, views::transpose(w, 1, 2), offsets);
    }
    if (b.needs(1)) add_weight_gradient(b.zeroed(1, w.shape(), w.dtype()), x, g, offsets);
    if (b.needs(3)) {
      add_bias_gradient(b.zeroed(3, {w.size(0), w.size(2)}, w.dtype()), g, offsets);
    }
  }

  Tensor definition(const TensorList& in) const { return by_masks(in[0], in[1], in[2], in[3]); }

 private:
  static void add_weight_gradient(const Tensor& gw, const Tensor& x, const Tensor& g,
                                  const Tensor& offsets) {
    if constexpr (kCuda) {
      if (gw.device().is_cuda()) {
        return grouped_weight_gradient_cuda(gw, kernels::contiguous(x), kernels::contiguous(g),
                                            offsets);
      }
    }
    for_groups(offsets, [&](int64_t e, int64_t begin, int64_t end) {
      kernels::gemm(views::select(gw, 0, e), views::transpose(views::slice(x, 0, begin, end), 0, 1),
                    views::slice(g, 0, begin, end), 1, 1);
    });
  }

  static void add_bias_gradient(const Tensor& gb, const Tensor& g, const Tensor& offsets) {
    if constexpr (kCuda) {
      if (gb.device().is_cuda()) {
        return grouped_bias_gradient_cuda(gb, kernels::contiguous(g), offsets);
      }
    }
    for_groups(offsets, [&](int64_t e, int64_t begin, int64_t end) {
      kernels::add_in_place(views::select(gb, 0, e),
                            kernels::sum(views::slice(g, 0, begin, end), {0}, false));
    });
  }
};

Tensor checked_offsets(const Tensor& offsets, int64_t groups, int64_t rows) {
  check(offsets.dtype() == DType::i64 && offsets.shape() == Shape{groups + 1},
        "grouped_matmul: offsets i64 ({}) were expected for {} matrices, got {} {}", groups + 1,
        groups, name(offsets.dtype()), offsets.shape());
  if (!offsets.device().is_cpu()) return offsets;
  const Tensor dense = kernels::contiguous(offsets);
  const int64_t* at = dense.data<int64_t>();
  check(at[0] == 0, "grouped_matmul: offsets must begin with 0, got {}", at[0]);
  for (int64_t g = 0; g < groups; ++g) {
    check(at[g] <= at[g + 1] && at[g + 1] <= rows,
          "grouped_matmul: offsets must ascend to at most {} rows, group {} has [{}, {})", rows, g,
          at[g], at[g + 1]);
  }
  return dense;
}

OpSample sample(std::string label, TensorList inputs) {
  const TensorFunction run = [](const TensorList& x) {
    return TensorList{grouped_matmul(x[0], x[1], x[2], x.size() > 3 ? x[3] : Tensor())};
  };
  const TensorFunction definition = [](const TensorList& x) {
    return TensorList{by_masks(x[0], x[1], x[2], x.size() > 3 ? x[3] : Tensor())};
  };
  return {std::move(label), std::move(inputs), run, definition};
}

std::vector<OpSample> grouped_samples() {
  const auto offsets = [](const std::vector<int64_t>& at) {
    return from_values(at, {static_cast<int64_t>(at.size())});
  };
  const Tensor x = samples::normal({7, 3}), w = samples::normal({3, 3, 4}, 1);
  const Tensor bias = samples::normal({3, 4}, 2);
  return {sample("three groups", {x, w, offsets({0, 2, 5, 7}), bias}),
          sample("no bias", {x, w, offsets({0, 1, 6, 7})}),
          sample("an empty group", {x, w, offsets({0, 4, 4, 7}), bias}),
          sample("all rows in the last", {x, w, offsets({0, 0, 0, 7}), bias}),
          sample("rows of no group", {x, w, offsets({0, 1, 1, 4}), bias}),
          sample("no row in any group", {x, w, offsets({0, 0, 0, 0}), bias}),
          sample("no rows", {samples::normal({0, 3}), w, offsets({0, 0, 0, 0}), bias}),
          sample("one of all", {samples::normal({1, 1}), samples::normal({1, 1, 1}, 1),
                                offsets({0, 1}), samples::normal({1, 1}, 2)}),
          sample("more than a tile",
                 {samples::uniform({70, 5}, -0.1, 0.1), samples::uniform({2, 5, 66}, -0.1, 0.1, 1),
                  offsets({0, 66, 69}), samples::uniform({2, 66}, -0.1, 0.1, 2)}),
          sample("strided", {samples::strided(x), samples::strided(w), offsets({0, 2, 5, 7}),
                             samples::strided(bias)}),
          sample("transposed matrices", {x, views::transpose(samples::normal({3, 4, 3}, 1), 1, 2),
                                         offsets({0, 2, 5, 7}), bias})};
}

const Tensor& sample_offsets() {
  static const Tensor at = from_values(std::vector<int64_t>{0, 1, 2}, {3});
  return at;
}

const RegisterOp row{{
    .name = "grouped_matmul",
    .formula = "Y[r] = X[r] W[g] + b[g], offsets[g] ≤ r < offsets[g + 1]",
    .source = "Gale et al. 2022, MegaBlocks: Efficient Sparse Training with Mixture-of-Experts",
    .samples = grouped_samples,
    .wrong_calls = {
        [] {
          grouped_matmul(samples::normal({2, 3}), samples::normal({2, 4, 5}), sample_offsets());
        },
        [] {
          grouped_matmul(samples::normal({2, 3}), samples::normal({3, 3, 5}), sample_offsets());
        },
        [] {
          grouped_matmul(samples::normal({1, 3}), samples::normal({2, 3, 5}), sample_offsets());
        },
        [] {
          grouped_matmul(samples::normal({2, 3}), samples::normal({2, 3, 5}), sample_offsets(),
                         samples::normal({2, 4}));
        },
        [] {
          grouped_matmul(samples::normal({2, 3}), samples::normal({2, 3, 5}),
                         from_values(std::vector<int64_t>{0, 2, 1}, {3}));
        },
        [] {
          grouped_matmul(samples::normal({2, 3}), samples::normal({2, 3, 5}), samples::normal({3}));
        }},
}};

}  // namespace

Tensor grouped_matmul(const Tensor& x, const Tensor& w, const Tensor& offsets, const Tensor& bias) {
  check(x.rank() == 2 && w.rank() == 3 && x.size(1) == w.size(1),
        "grouped_matmul: rows (R, K) and matrices (n, K, N) were expected, got {} and {}",
        x.shape(), w.shape());
  check(!bias.defined() || bias.shape() == Shape{w.size(0), w.size(2)},
        "grouped_matmul: a bias of shape ({}, {}) was expected, got {}", w.size(0), w.size(2),
        bias.defined() ? bias.shape() : Shape());
  const Tensor at = checked_offsets(offsets, w.size(0), x.size(0));
  const auto [rows, matrices] = detail::promoted("grouped_matmul", x, w);
  return apply(GroupedMatMul{}, rows, matrices, at, bias.defined() ? bias.to(rows.dtype()) : bias);
}

int64_t grouped_matmul_rows() {
  return rows_multiplied;
}

Tensor group_offsets(const Tensor& ids, int64_t groups) {
  check(is_integral(ids.dtype()) && ids.rank() == 1,
        "group_offsets: integer ids (R) were expected, got {} {}", name(ids.dtype()), ids.shape());
  const Tensor bounds = arange(0, static_cast<double>(groups + 1), 1, {ids.dtype(), ids.device()});
  return sum(lt(unsqueeze(ids, 1), bounds).to(DType::i64), {0});
}

}  // namespace tessera
