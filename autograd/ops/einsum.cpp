#include "tessera/autograd/ops/einsum.h"

#include <map>

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/axis_pattern.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using detail::Axes;
using detail::AxisPattern;
using detail::contains;

Tensor diagonal_view(const Tensor& x, int64_t a, int64_t b) {
  Shape shape = x.shape();
  Strides strides = x.strides();
  strides[a] += strides[b];
  shape.erase(b);
  strides.erase(b);
  return views::as_strided(x, shape, strides, x.offset());
}

Tensor embed_diagonal(const Tensor& x, const Shape& shape, int64_t a, int64_t b);

// y[…, i, …] = x[…, i, …, i, …]: dimension b > a runs along with a.
struct Diagonal {
  static constexpr std::string_view name = "diagonal";
  Shape from;
  int64_t a;
  int64_t b;
  Tensor forward(Forward&, const Tensor& x) const { return diagonal_view(x, a, b); }
  void backward(Backward& back) const { back.add(0, embed_diagonal(back.grad(), from, a, b)); }
};

// The adjoint of Diagonal: zeros beside it.
struct EmbedDiagonal {
  static constexpr std::string_view name = "diagonal";
  Shape shape;
  int64_t a;
  int64_t b;
  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor y = zeros(shape, {x.dtype(), x.device()});
    kernels::add_in_place(diagonal_view(y, a, b), x);
    return y;
  }
  void backward(Backward& back) const { back.add(0, apply(Diagonal{shape, a, b}, back.grad())); }
};

Tensor embed_diagonal(const Tensor& x, const Shape& shape, int64_t a, int64_t b) {
  return apply(EmbedDiagonal{shape, a, b}, x);
}

struct Operand {
  Tensor x;
  Axes axes;

  int64_t find(std::string_view axis) const {
    return std::find(axes.begin(), axes.end(), axis) - axes.begin();
  }
  int64_t size(std::string_view axis) const { return x.shape()[find(axis)]; }
  void drop(int64_t dim) { axes.erase(axes.begin() + dim); }
};

Axes operator+(Axes a, const Axes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Sums over the axes that are not in `kept`.
Operand summed(const Operand& o, const Axes& kept) {
  Operand result{o.x, {}};
  Shape dims;
  for (size_t i = 0; i < o.axes.size(); ++i) {
    if (contains(kept, o.axes[i])) {
      result.axes.push_back(o.axes[i]);
    } else {
      dims.push_back(static_cast<int64_t>(i));
    }
  }
  if (!dims.empty()) result.x = sum(o.x, dims);
  return result;
}

// x with its dimensions in the order of `axes`, size 1 where it lacks one.
Tensor aligned(const Operand& o, const Axes& axes) {
  Shape order;
  Shape shape;
  for (const std::string& axis : axes) {
    const bool present = contains(o.axes, axis);
    if (present) order.push_back(o.find(axis));
    shape.push_back(present ? o.size(axis) : 1);
  }
  return reshape(permute(o.x, order), shape);
}

// (batch…, rows, columns), the last two merged from `rows` and `columns`.
Tensor as_matrices(const Operand& o, const Axes& batch, const Axes& rows, const Axes& columns) {
  Shape shape;
  for (const std::string& axis : batch) shape.push_back(o.size(axis));
  for (const Axes* group : {&rows, &columns}) {
    int64_t merged = 1;
    for (const std::string& axis : *group) merged *= o.size(axis);
    shape.push_back(merged);
  }
  return reshape(aligned(o, batch + rows + columns), shape);
}

// The product of two operands, summed over the common axes that are not in `needed`. All their
// other axes are needed.
Operand contracted(const Operand& a, const Operand& b, const Axes& needed) {
  Axes batch;
  Axes inner;
  Axes left;
  Axes right;
  for (const std::string& axis : a.axes) {
    (!contains(b.axes, axis) ? left : contains(needed, axis) ? batch : inner).push_back(axis);
  }
  for (const std::string& axis : b.axes) {
    if (!contains(a.axes, axis)) right.push_back(axis);
  }
  const Axes result = batch + left + right;
  if (inner.empty() || (left.empty() && right.empty())) {  // no matrices: element by element
    const Axes all = result + inner;
    return summed({aligned(a, all) * aligned(b, all), all}, result);
  }
  const Tensor c = matmul(as_matrices(a, batch, left, inner), as_matrices(b, batch, inner, right));
  Shape shape;
  for (const std::string& axis : result) {
    shape.push_back(contains(a.axes, axis) ? a.size(axis) : b.size(axis));
  }
  return {reshape(c, shape), result};
}

// Sizes of all axes: equal wherever a name stands; those of ellipses broadcast.
std::map<std::string, int64_t> sizes_of(const AxisPattern& pattern,
                                        const std::vector<Operand>& operands) {
  std::map<std::string, int64_t> sizes;
  for (const Operand& o : operands) {
    for (size_t i = 0; i < o.axes.size(); ++i) {
      const std::string& axis = o.axes[i];
      const int64_t size = o.x.shape()[static_cast<int64_t>(i)];
      auto [entry, fresh] = sizes.try_emplace(axis, size);
      const bool broadcast = detail::is_ellipsis(axis) && (size == 1 || entry->second == 1);
      pattern.check(entry->second == size || broadcast, "axis \"{}\" has sizes {} and {}", axis,
                    entry->second, size);
      if (broadcast && entry->second == 1) entry->second = size;
    }
  }
  return sizes;
}

// Repeated names become diagonals, dimensions of size 1 that broadcast go.
void simplify(Operand& o, const std::map<std::string, int64_t>& sizes) {
  for (int64_t b = static_cast<int64_t>(o.axes.size()) - 1; b >= 0; --b) {
    const std::string& axis = o.axes[static_cast<size_t>(b)];
    const int64_t a = o.find(axis);
    if (a < b) {
      o.x = apply(Diagonal{o.x.shape(), a, b}, o.x);
      o.drop(b);
    } else if (o.x.shape()[b] == 1 && sizes.at(axis) != 1) {
      o.x = squeeze(o.x, b);
      o.drop(b);
    }
  }
}

Axes implicit_output(const std::vector<Operand>& operands, int64_t covered) {
  std::map<std::string, int> uses;
  for (const Operand& o : operands) {
    for (const std::string& axis : o.axes) ++uses[axis];
  }
  Axes output;
  for (int64_t i = covered; i > 0; --i) output.push_back(fmt::format("...{}", i));
  for (const auto& [axis, count] : uses) {
    if (count == 1 && !detail::is_ellipsis(axis)) output.push_back(axis);
  }
  return output;
}

struct Parsed {
  std::vector<Operand> operands;
  Axes output;
};

Parsed parse(const AxisPattern& pattern, const TensorList& tensors) {
  const auto [left, right] = pattern.sides();
  const std::vector<std::string_view> terms = pattern.terms(left);
  pattern.check(terms.size() == tensors.size(), "{} terms for {} operands", terms.size(),
                tensors.size());
  bool letters = right.find(' ') == std::string_view::npos;
  for (std::string_view term : terms) {
    letters = letters && term.find(' ') == std::string_view::npos;
  }
  Parsed parsed;
  int64_t widest = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const Axes axes = pattern.names(terms[i], letters);
    const int64_t covered = pattern.covered(axes, tensors[i].shape(), terms[i]);
    widest = std::max(widest, covered);
    parsed.operands.push_back({tensors[i], pattern.expanded(axes, covered)});
  }
  if (!pattern.has_arrow()) {
    parsed.output = implicit_output(parsed.operands, widest);
    return parsed;
  }
  const Axes output = pattern.names(right, letters);
  pattern.check(widest == 0 || contains(output, "..."), "the result lacks the ellipsis");
  parsed.output = pattern.expanded(output, widest);
  return parsed;
}

void check_output(const AxisPattern& pattern, const Axes& output,
                  const std::map<std::string, int64_t>& sizes) {
  for (const std::string& axis : output) {
    pattern.check(sizes.contains(axis), "axis \"{}\" of the result is in no operand", axis);
    pattern.check(std::count(output.begin(), output.end(), axis) == 1,
                  "axis \"{}\" stands twice in the result", axis);
  }
}

OpSample sample(std::string pattern, TensorList inputs) {
  return {pattern,
          std::move(inputs),
          [pattern](const TensorList& x) { return TensorList{einsum(pattern, x)}; },
          {}};
}

std::vector<OpSample> einsum_samples() {
  const auto t = [](const Shape& shape, uint64_t salt) { return samples::normal(shape, salt); };
  return {sample("ij,jk->ik", {t({2, 3}, 0), t({3, 4}, 1)}),
          sample("b h i d, b h j d -> b h i j", {t({2, 2, 3, 2}, 0), t({2, 2, 4, 2}, 1)}),
          sample("bhij,bhjd->bihd", {t({2, 2, 3, 2}, 0), t({2, 2, 2, 3}, 1)}),
          sample("ij->ji", {t({2, 3}, 0)}),
          sample("ij->", {t({2, 3}, 0)}),
          sample("ii->i", {t({3, 3}, 0)}),
          sample("ii", {t({3, 3}, 0)}),
          sample("iji,j->ij", {t({2, 3, 2}, 0), t({3}, 1)}),
          sample("i,j->ij", {t({2}, 0), t({3}, 1)}),
          sample("i,i", {t({3}, 0), t({3}, 1)}),
          sample("...ij,...jk->...ik", {t({2, 3, 2, 3}, 0), t({3, 3, 2}, 1)}),
          sample("...i,...i->...", {t({2, 1, 3}, 0), t({4, 3}, 1)}),
          sample("ij,jk,kl->il", {t({2, 3}, 0), t({3, 2}, 1), t({2, 3}, 2)}),
          sample("ij,ij,ij->i", {t({2, 3}, 0), t({2, 3}, 1), t({2, 3}, 2)}),
          sample("ij,kj->ik", {samples::strided(t({2, 3}, 0)), samples::strided(t({4, 3}, 1))}),
          sample("ij,jk->ik", {t({1, 1}, 0), t({1, 1}, 1)}),
          sample("ij,jk->ik", {t({2, 0}, 0), t({0, 3}, 1)}),
          sample(",i->i", {t({}, 0), t({2}, 1)})};
}

const RegisterOp row{{
    .name = "einsum",
    .formula = "sums of products by the names of axes",
    .source = "NumPy's einsum",
    .samples = einsum_samples,
    .wrong_calls = {[] {
                      einsum("ij,jk->ik", samples::normal({2, 3}), samples::normal({2, 3}));
                    },
                    [] {
                      einsum("ij,jk->ik", samples::normal({2, 3}));
                    },
                    [] {
                      einsum("ijk->i", samples::normal({2, 3}));
                    },
                    [] {
                      einsum("ij->k", samples::normal({2, 3}));
                    },
                    [] {
                      einsum("ij->ii", samples::normal({2, 3}));
                    },
                    [] {
                      einsum("i1->i", samples::normal({2, 3}));
                    },
                    [] { einsum("i->j->i", samples::normal({2})); },
                    [] {
                      einsum("...i->i", samples::normal({2, 3}));
                    },
                    [] { einsum("i,i->i", samples::integers({2}, 0, 3), samples::normal({2})); }},
}};

}  // namespace

Tensor einsum(std::string_view text, const TensorList& operands) {
  const AxisPattern pattern{"einsum", text};
  pattern.check(!operands.empty(), "no operands");
  DType dtype = operands[0].dtype();
  for (const Tensor& x : operands) {
    detail::check_floating("einsum", x);
    check(x.device() == operands[0].device(), "einsum: operands on different devices: {} and {}",
          operands[0].device(), x.device());
    dtype = promote(dtype, x.dtype());
  }
  auto [list, output] = parse(pattern, operands);
  const std::map<std::string, int64_t> sizes = sizes_of(pattern, list);
  check_output(pattern, output, sizes);
  for (Operand& o : list) {
    o.x = o.x.to(dtype);
    simplify(o, sizes);
  }
  Operand result = list[0];
  for (size_t i = 1; i < list.size(); ++i) {
    Axes needed = output;
    for (size_t j = i + 1; j < list.size(); ++j) needed = needed + list[j].axes;
    Operand a = summed(result, needed + list[i].axes);
    Operand b = summed(list[i], needed + result.axes);
    // The last axis of the result should end up last in memory.
    if (!output.empty() && contains(a.axes, output.back()) && !contains(b.axes, output.back())) {
      std::swap(a, b);
    }
    result = contracted(a, b, needed);
  }
  return aligned(summed(result, output), output);
}

}  // namespace tessera
