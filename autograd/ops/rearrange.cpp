#include "tessera/autograd/ops/rearrange.h"

#include "tessera/autograd/ops/axis_pattern.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using detail::Axes;
using detail::AxisPattern;
using detail::contains;

bool is_number(const std::string& axis) {
  return axis[0] >= '0' && axis[0] <= '9';
}

Axes flat(const std::vector<Axes>& groups) {
  Axes axes;
  for (const Axes& group : groups) axes.insert(axes.end(), group.begin(), group.end());
  return axes;
}

// A pattern read against a tensor: groups of single axes on both sides, and the size of each axis.
struct Reading {
  AxisPattern pattern;
  std::vector<Axes> left;
  std::vector<Axes> right;
  AxisSizes sizes;

  int64_t size(const std::string& axis) const {
    return is_number(axis) ? std::stoll(axis) : sizes.find(axis)->second;
  }
  int64_t size(const Axes& group) const {
    int64_t product = 1;
    for (const std::string& axis : group) product *= size(axis);
    return product;
  }
};

// Ellipses become one group for each dimension, or several axes of the group they stand in.
std::vector<Axes> without_ellipsis(const AxisPattern& pattern, const std::vector<Axes>& groups,
                                   int64_t covered) {
  std::vector<Axes> result;
  for (const Axes& group : groups) {
    const Axes axes = pattern.expanded(group, covered);
    if (group == Axes{"..."}) {
      for (const std::string& axis : axes) result.push_back({axis});
    } else {
      result.push_back(axes);
    }
  }
  return result;
}

// The sizes of the axes of one group that fill a dimension; one of them may be open.
void solve(Reading& r, const Axes& group, int64_t dimension) {
  const std::string* open = nullptr;
  int64_t known = 1;
  for (const std::string& axis : group) {
    if (is_number(axis) || r.sizes.contains(axis)) {
      known *= r.size(axis);
    } else {
      r.pattern.check(open == nullptr, "give a size for \"{}\" or \"{}\"", open ? *open : axis,
                      axis);
      open = &axis;
    }
  }
  if (open != nullptr) {
    r.pattern.check(known > 0 && dimension % known == 0,
                    "({}) does not divide a dimension of size {}: the other sizes give {}",
                    fmt::join(group, " "), dimension, known);
    r.sizes[*open] = dimension / known;
  }
  r.pattern.check(r.size(group) == dimension, "({}) has size {}, the dimension {}",
                  fmt::join(group, " "), r.size(group), dimension);
}

Reading read(std::string_view op, std::string_view text, const Tensor& x, const AxisSizes& sizes) {
  const AxisPattern pattern{op, text};
  pattern.check(pattern.has_arrow(), "no arrow");
  const auto [from, to] = pattern.sides();
  Reading r{pattern, pattern.groups(from), pattern.groups(to), sizes};
  Axes dimensions;  // one entry per group, to be counted against the rank
  for (const Axes& group : r.left) {
    pattern.check(group.size() == 1 || !contains(group, "..."),
                  "an ellipsis on the left cannot be part of a group");
    dimensions.push_back(group == Axes{"..."} ? "..." : "group");
  }
  const int64_t covered = pattern.covered(dimensions, x.shape(), from);
  pattern.check(contains(dimensions, "...") || !contains(flat(r.right), "..."),
                "an ellipsis on the right alone");
  r.left = without_ellipsis(pattern, r.left, covered);
  r.right = without_ellipsis(pattern, r.right, covered);
  const Axes named = flat(r.left);
  const Axes result = flat(r.right);
  for (const auto& [axis, size] : sizes) {
    pattern.check(contains(named, axis) || contains(result, axis),
                  "a size is given for \"{}\", which the pattern does not name", axis);
    pattern.check(size >= 0, "size {} of \"{}\" is negative", size, axis);
  }
  for (size_t i = 0; i < r.left.size(); ++i) {
    solve(r, r.left[i], x.shape()[static_cast<int64_t>(i)]);
  }
  return r;
}

// The named axes of a side, without numbers.
Axes names_of(const std::vector<Axes>& groups) {
  Axes axes;
  for (const std::string& axis : flat(groups)) {
    if (!is_number(axis)) axes.push_back(axis);
  }
  return axes;
}

// x with one dimension per named axis of the left side.
Tensor split(const Reading& r, const Tensor& x) {
  for (const std::string& axis : flat(r.left)) {
    r.pattern.check(!is_number(axis) || axis == "1", "size {} on the left needs a name", axis);
  }
  Shape shape;
  for (const std::string& axis : names_of(r.left)) shape.push_back(r.size(axis));
  return reshape(x, shape);
}

// From one dimension per axis in `axes` to the right side: moved, repeated along axes that are not
// there yet, merged.
Tensor arranged(const Reading& r, const Tensor& x, const Axes& axes) {
  Shape order;
  Shape with_ones;
  Shape repeated;
  Shape merged;
  for (const Axes& group : r.right) {
    for (const std::string& axis : group) {
      const auto at = std::find(axes.begin(), axes.end(), axis);
      if (at != axes.end()) order.push_back(at - axes.begin());
      with_ones.push_back(at != axes.end() ? r.size(axis) : 1);
      repeated.push_back(r.size(axis));
    }
    merged.push_back(r.size(group));
  }
  return reshape(expand(reshape(permute(x, order), with_ones), repeated), merged);
}

void check_no_new_axes(const Reading& r, const Axes& axes) {
  for (const std::string& axis : flat(r.right)) {
    r.pattern.check(axis == "1" || contains(axes, axis),
                    "axis \"{}\" of the result is not on the left; use repeat", axis);
  }
}

void check_kept(const Reading& r, const Axes& axes) {
  const Axes result = flat(r.right);
  for (const std::string& axis : axes) {
    r.pattern.check(contains(result, axis), "axis \"{}\" is missing in the result; use reduce",
                    axis);
  }
}

Tensor reduced(std::string_view how, const Tensor& x, const Shape& dims) {
  if (how == "sum") return sum(x, dims);
  if (how == "mean") return mean(x, dims);
  return how == "max" ? amax(x, dims) : amin(x, dims);
}

OpSample sample(std::string label, const Tensor& x, std::function<Tensor(const Tensor&)> f) {
  return {std::move(label), {x}, [f](const TensorList& in) { return TensorList{f(in[0])}; }, {}};
}

OpSample rearranged(const char* pattern, const Tensor& x, const AxisSizes& sizes = {}) {
  return sample(pattern, x, [=](const Tensor& in) { return rearrange(pattern, in, sizes); });
}
OpSample repeated(const char* pattern, const Tensor& x, const AxisSizes& sizes = {}) {
  return sample(pattern, x, [=](const Tensor& in) { return repeat(pattern, in, sizes); });
}
OpSample reduced(const char* pattern, const char* how, const Tensor& x,
                 const AxisSizes& sizes = {}) {
  return sample(pattern, x, [=](const Tensor& in) { return reduce(pattern, in, how, sizes); });
}

const RegisterOp rearrange_row{{
    .name = "rearrange",
    .formula = "the same elements under another order and grouping of axes",
    .source = "Rogozhnikov 2022",
    .samples =
        [] {
          const Tensor x = samples::normal({2, 3, 4});
          return std::vector<OpSample>{
              rearranged("b n (h d) -> b h n d", x, {{"h", 2}}),
              rearranged("b h n -> n (b h)", x),
              rearranged("... c -> c ...", x),
              rearranged("a b c -> (c b) 1 a", x),
              rearranged("... -> (...)", x),
              rearranged("b c -> c b", samples::strided(samples::normal({3, 4}))),
              rearranged("1 c -> c", samples::normal({1, 3})),
              rearranged("a b -> (b a)", samples::normal({0, 3})),
              rearranged("->", samples::normal({}))};
        },
    .wrong_calls = {[] {
                      rearrange("b (h d) -> b h d", samples::normal({2, 6}));
                    },
                    [] {
                      rearrange("b (h d) -> b h d", samples::normal({2, 6}), {{"h", 4}});
                    },
                    [] {
                      rearrange("a b -> a", samples::normal({2, 6}));
                    },
                    [] {
                      rearrange("a b -> a b c", samples::normal({2, 6}));
                    },
                    [] {
                      rearrange("a b c -> a b c", samples::normal({2, 6}));
                    },
                    [] {
                      rearrange("a (b -> a b", samples::normal({2, 6}));
                    },
                    [] {
                      rearrange("a b", samples::normal({2, 6}));
                    },
                    [] {
                      rearrange("a a -> a", samples::normal({2, 2}));
                    },
                    [] {
                      rearrange("a b -> b a", samples::normal({2, 2}), {{"c", 2}});
                    },
                    [] {
                      rearrange("a 2 -> a", samples::normal({2, 2}));
                    },
                    [] {
                      rearrange("a 1 -> a", samples::normal({2, 2}));
                    }},
}};

const RegisterOp repeat_row{{
    .name = "repeat",
    .formula = "x repeated along new axes",
    .source = "Rogozhnikov 2022",
    .samples =
        [] {
          const Tensor x = samples::normal({2, 3});
          return std::vector<OpSample>{repeated("h w -> b h w", x, {{"b", 2}}),
                                       repeated("h w -> (h r) (w 2)", x, {{"r", 2}}),
                                       repeated("... -> ... 3", x),
                                       repeated("h w -> w 1 h", samples::strided(x)),
                                       repeated("-> n", samples::normal({}), {{"n", 2}}),
                                       repeated("h w -> h w n", x, {{"n", 0}})};
        },
    .wrong_calls = {[] {
                      repeat("h w -> h w n", samples::normal({2, 3}));
                    },
                    [] {
                      repeat("h w -> h 2", samples::normal({2, 3}));
                    },
                    [] {
                      repeat("h w -> ... h w", samples::normal({2, 3}));
                    }},
}};

const RegisterOp reduce_row{{
    .name = "reduce",
    .formula = "sum, mean, max or min over the axes missing on the right",
    .source = "Rogozhnikov 2022",
    .samples =
        [] {
          const Tensor x = samples::normal({2, 4, 3});
          return std::vector<OpSample>{
              reduced("b (h s) w -> b h w", "mean", x, {{"s", 2}}),
              reduced("b h w -> w b", "sum", x),
              reduced("b ... -> b", "max", x),
              reduced("b h w -> b 1 w", "min", x),
              reduced("b h w ->", "sum", x),
              reduced("b h w -> (b h w)", "max", x),
              reduced("b h -> b", "sum", samples::normal({2, 0})),
              reduced("b h -> b", "mean", samples::strided(samples::normal({3, 4})))};
        },
    .wrong_calls = {[] {
                      reduce("b h -> b", samples::normal({2, 3}), "median");
                    },
                    [] {
                      reduce("b h -> b c", samples::normal({2, 3}), "sum");
                    },
                    [] {
                      reduce("b (h s) -> b h", samples::normal({2, 3}), "sum", {{"s", 2}});
                    }},
}};

}  // namespace

Tensor rearrange(std::string_view pattern, const Tensor& x, const AxisSizes& sizes) {
  const Reading r = read("rearrange", pattern, x, sizes);
  const Axes axes = names_of(r.left);
  check_no_new_axes(r, axes);
  check_kept(r, axes);
  return arranged(r, split(r, x), axes);
}

Tensor repeat(std::string_view pattern, const Tensor& x, const AxisSizes& sizes) {
  const Reading r = read("repeat", pattern, x, sizes);
  const Axes axes = names_of(r.left);
  for (const std::string& axis : names_of(r.right)) {
    r.pattern.check(r.sizes.contains(axis), "give a size for the new axis \"{}\"", axis);
  }
  check_kept(r, axes);
  return arranged(r, split(r, x), axes);
}

Tensor reduce(std::string_view pattern, const Tensor& x, std::string_view reduction,
              const AxisSizes& sizes) {
  const Reading r = read("reduce", pattern, x, sizes);
  r.pattern.check(
      reduction == "sum" || reduction == "mean" || reduction == "max" || reduction == "min",
      "unknown reduction \"{}\"; use \"sum\", \"mean\", \"max\" or \"min\"", reduction);
  const Axes axes = names_of(r.left);
  const Axes result = flat(r.right);
  check_no_new_axes(r, axes);
  Axes kept;
  Shape dims;
  for (size_t i = 0; i < axes.size(); ++i) {
    if (contains(result, axes[i])) {
      kept.push_back(axes[i]);
    } else {
      dims.push_back(static_cast<int64_t>(i));
    }
  }
  const Tensor whole = split(r, x);
  return arranged(r, dims.empty() ? whole : reduced(reduction, whole, dims), kept);
}

}  // namespace tessera
