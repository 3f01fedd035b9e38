#include "tessera/autograd/gradcheck.h"

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

bool differentiated(const Tensor& x) {
  return x.defined() && x.dtype() == DType::f64;
}

// Leaves with the same values, shapes and strides (a strided view stays one).
TensorList leaves_of(const TensorList& inputs) {
  TensorList leaves;
  for (const Tensor& x : inputs) {
    Tensor leaf = x.defined() ? x.detach() : x;
    if (differentiated(x)) leaf.set_requires_grad();
    leaves.push_back(leaf);
  }
  return leaves;
}

// Σ_i ⟨w_i, y_i⟩ over the floating outputs, with fixed random weights.
Tensor project(const TensorList& outputs, uint64_t seed) {
  Tensor total = scalar(0, {DType::f64, {}});
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is_floating(outputs[i].dtype())) continue;
    const Tensor w = empty(outputs[i].shape(), {DType::f64, {}});
    kernels::uniform(w, 0.5, 1.5, {seed, i});
    total = total + sum(outputs[i].to(DType::f64) * w);
  }
  return total;
}

double evaluate(const TensorFunction& f, const TensorList& inputs, uint64_t seed) {
  return project(f(inputs), seed).item();
}

std::string index_text(int64_t flat, const Shape& shape) {
  Shape index = shape;
  for (int64_t d = shape.rank() - 1; d >= 0; --d) {
    index[d] = flat % shape[d];
    flat /= shape[d];
  }
  std::string text = to_string(index);
  text.front() = '[';
  text.back() = ']';
  return text;
}

double* element(const Tensor& x, int64_t flat) {
  int64_t at = 0;
  for (int64_t d = x.rank() - 1; d >= 0; --d) {
    at += flat % x.shape()[d] * x.strides()[d];
    flat /= x.shape()[d];
  }
  return x.data<double>() + at;
}

struct Probe {
  double central = 0;
  bool smooth = true;
};

// Central difference at one entry, and whether the two one-sided ones are compatible with a
// kink-free function at this step.
Probe probe(const TensorFunction& f, const TensorList& inputs, double* entry, double middle,
            const GradcheckOptions& options) {
  const double x = *entry;
  const double h = options.step * std::max(1.0, std::abs(x));
  *entry = x + h;
  const double above = evaluate(f, inputs, options.seed);
  *entry = x - h;
  const double below = evaluate(f, inputs, options.seed);
  *entry = x;
  const double forward = (above - middle) / h;
  const double backward = (middle - below) / h;
  const double scale = std::max({1.0, std::abs(forward), std::abs(backward)});
  return {(above - below) / (2 * h), std::abs(forward - backward) <= 1e-3 * scale};
}

std::vector<int64_t> entries_of(const Tensor& x, const GradcheckOptions& options) {
  std::vector<int64_t> list;
  if (x.numel() <= options.max_entries) {
    for (int64_t i = 0; i < x.numel(); ++i) list.push_back(i);
  } else {
    Generator random(options.seed, 99);
    for (int64_t i = 0; i < options.max_entries; ++i) list.push_back(random.below(x.numel()));
  }
  return list;
}

// One attempt at the given inputs; sets `kink` when a mismatch sits at a non-differentiable point.
GradcheckResult attempt(const TensorFunction& f, const TensorList& inputs,
                        const GradcheckOptions& options, bool& kink) {
  GradcheckResult result;
  TensorList wanted;
  std::vector<size_t> index;
  const TensorList leaves = leaves_of(inputs);
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (!differentiated(leaves[i])) continue;
    wanted.push_back(leaves[i]);
    index.push_back(i);
  }
  const Tensor y = project(f(leaves), options.seed);
  TensorList analytic(wanted.size());
  if (y.requires_grad()) analytic = grad({y}, wanted);
  NoGrad off;
  for (size_t w = 0; w < wanted.size(); ++w) {
    const Tensor& x = wanted[w];
    const Tensor g = analytic[w].defined() ? kernels::contiguous(analytic[w]) : zeros_like(x);
    if (g.shape() != x.shape()) {
      return {false, INFINITY, 0,
              fmt::format("input {}: its gradient has shape {}, not {}", index[w], g.shape(),
                          x.shape())};
    }
    for (int64_t flat : entries_of(x, options)) {
      const Probe p = probe(f, leaves, element(x, flat), y.item(), options);
      const double a = g.data<double>()[flat];
      const double error =
          std::abs(a - p.central) / std::max({1.0, std::abs(a), std::abs(p.central)});
      ++result.entries;
      if (error <= result.worst) continue;
      result.worst = std::isnan(error) ? INFINITY : error;
      if (error <= options.tolerance) continue;
      result.ok = false;
      kink = kink || !p.smooth;
      result.message =
          fmt::format("input {} {}: analytic {:.9g}, numeric {:.9g}, relative error {:.2g}",
                      index[w], index_text(flat, x.shape()), a, p.central, error);
    }
  }
  return result;
}

TensorList copies(const TensorList& inputs) {
  TensorList list;
  for (const Tensor& x : inputs) {
    if (!differentiated(x)) {
      list.push_back(x);
      continue;
    }
    // A clone of the whole storage keeps the strides and lets entries be moved safely.
    const int64_t count = x.storage()->bytes() / size_of(x.dtype());
    const Tensor all = kernels::clone(Tensor(x.storage(), {count}, {1}, 0, x.dtype()));
    list.emplace_back(all.storage(), x.shape(), x.strides(), x.offset(), x.dtype());
  }
  return list;
}

}  // namespace

GradcheckResult gradcheck(const TensorFunction& f, const TensorList& inputs,
                          const GradcheckOptions& options) {
  TensorList moved = copies(inputs);
  bool kink = false;
  GradcheckResult result = attempt(f, moved, options, kink);
  for (uint64_t round = 1; !result.ok && kink && round <= 3; ++round) {
    NoGrad off;
    moved = copies(inputs);
    for (size_t i = 0; i < moved.size(); ++i) {
      if (!differentiated(moved[i])) continue;
      const Tensor noise = empty(moved[i].shape(), {DType::f64, {}});
      kernels::uniform(noise, -0.01, 0.01, {options.seed + round, i});
      kernels::copy(moved[i], add(moved[i], noise));
    }
    GradMode on(true);
    kink = false;
    result = attempt(f, moved, options, kink);
  }
  if (!result.ok && kink) result.message += " (near a point without a derivative)";
  return result;
}

GradcheckResult gradgradcheck(const TensorFunction& f, const TensorList& inputs,
                              const GradcheckOptions& options) {
  const TensorFunction gradient = [&f, &options](const TensorList& x) {
    GradMode on(true);
    TensorList wanted;
    TensorList at;
    for (const Tensor& t : x) {
      if (!differentiated(t)) {
        at.push_back(t);
        continue;
      }
      Tensor leaf = t;
      if (!leaf.requires_grad()) leaf = t.detach().set_requires_grad();
      at.push_back(leaf);
      wanted.push_back(leaf);
    }
    // Squaring makes even linear functions depend on their inputs a second time.
    TensorList squares;
    for (const Tensor& y : f(at)) {
      if (is_floating(y.dtype())) squares.push_back(y * y * 0.5 + y);
    }
    const Tensor y = project(squares, options.seed + 1);
    if (!y.requires_grad()) return TensorList{};
    TensorList used;
    for (const Tensor& g : grad({y}, wanted, {}, {.create_graph = true})) {
      if (g.defined()) used.push_back(g);
    }
    return used;
  };
  return gradcheck(gradient, inputs, options);
}

GradcheckResult check_op(const OpInfo& op, const GradcheckOptions& options) {
  GradcheckResult total;
  auto merge = [&total](const std::string& what, const GradcheckResult& r) {
    total.entries += r.entries;
    total.worst = std::max(total.worst, r.worst);
    if (r.ok || !total.ok) return;
    total.ok = false;
    total.message = fmt::format("{}: {}", what, r.message);
  };
  for (const OpSample& sample : op.samples()) {
    if (sample.definition) {
      NoGrad off;
      const double ours = evaluate(sample.run, sample.inputs, options.seed);
      const double plain = evaluate(sample.definition, sample.inputs, options.seed);
      const double error = std::abs(ours - plain) / std::max(1.0, std::abs(plain));
      merge(sample.label,
            {error <= 1e-10 || ours == plain, 0, 1,
             fmt::format("value {:.12g}, its definition gives {:.12g}", ours, plain)});
    }
    if (op.orders >= 1) merge(sample.label, gradcheck(sample.run, sample.inputs, options));
    if (op.orders >= 2) {
      merge(sample.label + ", second order", gradgradcheck(sample.run, sample.inputs, options));
    }
  }
  return total;
}

}  // namespace tessera
