#include "tessera/autograd/ops/pad.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/axis_map.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct PadConstant {
  static constexpr std::string_view name = "pad";
  Shape before;
  Shape inner;  // of x
  Shape shape;  // of the result
  double value;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor y = full(shape, value, {x.dtype(), x.device()});
    Tensor inside = y;
    for (int64_t d = 0; d < x.rank(); ++d) {
      inside = views::slice(inside, d, before[d], before[d] + x.shape()[d]);
    }
    kernels::copy(inside, x);
    return y;
  }
  void backward(Backward& b) const {
    Tensor g = b.grad();
    for (int64_t d = 0; d < shape.rank(); ++d) g = slice(g, d, before[d], before[d] + inner[d]);
    b.add(0, g);
  }
};

// Where the element at `i` (possibly outside [0, n)) comes from.
int64_t source_of(PadMode mode, int64_t i, int64_t n) {
  switch (mode) {
    case PadMode::reflect:
      return i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i;
    case PadMode::circular:
      return i < 0 ? i + n : i >= n ? i - n : i;
    default:
      return std::clamp<int64_t>(i, 0, n - 1);
  }
}

AxisTable pad_table(PadMode mode, int64_t n, int64_t before, int64_t after) {
  AxisTable table;
  table.in = n;
  for (int64_t i = -before; i < n + after; ++i) {
    table.add(source_of(mode, i, n), 1);
    table.end_row();
  }
  return table;
}

// dst = src rotated along dimensions dim, dim + 1, …: two blocks each.
void copy_rolled(const Tensor& dst, const Tensor& src, const Shape& shifts, int64_t dim) {
  if (dim == shifts.rank()) {
    kernels::copy(dst, src);
    return;
  }
  const int64_t n = src.shape()[dim];
  const int64_t s = shifts[dim];
  if (s > 0) {
    copy_rolled(views::slice(dst, dim, 0, s), views::slice(src, dim, n - s, n), shifts, dim + 1);
  }
  copy_rolled(views::slice(dst, dim, s, n), views::slice(src, dim, 0, n - s), shifts, dim + 1);
}

struct Roll {
  static constexpr std::string_view name = "roll";
  Shape shifts;  // per dimension, in [0, size)

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor y = empty_like(x);
    copy_rolled(y, x, shifts, 0);
    return y;
  }
  void backward(Backward& b) const {
    Shape back = shifts;
    const Tensor& g = b.grad();
    for (int64_t d = 0; d < g.rank(); ++d) back[d] = shifts[d] == 0 ? 0 : g.size(d) - shifts[d];
    b.add(0, apply(Roll{back}, g));
  }
};

void check_padding(PadMode mode, const Tensor& x, int64_t d, int64_t before, int64_t after) {
  const int64_t n = x.shape()[d];
  const int64_t wider = std::max(before, after);
  check(mode != PadMode::reflect || wider < n,
        "pad: reflection by ({}, {}) needs more than the {} elements of dimension {} of x {}",
        before, after, n, d, x.shape());
  check(mode != PadMode::circular || wider <= n,
        "pad: circular padding ({}, {}) is larger than dimension {} of x {}", before, after, d,
        x.shape());
  check(mode == PadMode::constant || wider == 0 || n > 0,
        "pad: dimension {} of x {} has no element to repeat", d, x.shape());
}

Tensor crop(const Tensor& x, int64_t d, int64_t before, int64_t after) {
  const int64_t start = std::max<int64_t>(0, -before);
  const int64_t stop = x.shape()[d] - std::max<int64_t>(0, -after);
  check(start <= stop, "pad: padding ({}, {}) crops more than dimension {} of x {}", before, after,
        d, x.shape());
  return slice(x, d, start, stop);
}

OpSample pad_sample(const char* label, const Tensor& x, const Shape& pairs, PadMode mode,
                    double value = 0) {
  return {label,
          {x},
          [=](const TensorList& in) { return TensorList{pad(in[0], pairs, mode, value)}; },
          {}};
}

const RegisterOp pad_row{{
    .name = "pad",
    .formula = "x with more elements at both ends of its last dimensions",
    .source = "PyTorch's conventions",
    .samples =
        [] {
          const Tensor x = samples::normal({2, 3, 4});
          return std::vector<OpSample>{
              pad_sample("zeros", x, {1, 2, 0, 1}, PadMode::constant),
              pad_sample("a value, cropped on one side", x, {-1, 2, 1, -2}, PadMode::constant, 0.5),
              pad_sample("reflect", x, {2, 3, 1, 0}, PadMode::reflect),
              pad_sample("replicate", x, {2, 5, 1, 1, 1, 0}, PadMode::replicate),
              pad_sample("circular, cropped on one side", x, {4, 1, -1, 2}, PadMode::circular),
              pad_sample("strided", samples::strided(x), {1, 1, 1, 1}, PadMode::reflect),
              pad_sample("nothing", x, {0, 0}, PadMode::reflect),
              pad_sample("size 0", samples::normal({0, 3}), {1, 1}, PadMode::replicate)};
        },
    .wrong_calls = {[] { pad(samples::normal({3}), {1}); },
                    [] {
                      pad(samples::normal({3}), {1, 1, 1, 1});
                    },
                    [] {
                      pad(samples::normal({3}), {3, 0}, PadMode::reflect);
                    },
                    [] {
                      pad(samples::normal({3}), {0, 4}, PadMode::circular);
                    },
                    [] {
                      pad(samples::normal({0}), {1, 0}, PadMode::replicate);
                    },
                    [] {
                      pad(samples::normal({3}), {-2, -2});
                    }},
}};

const RegisterOp roll_row{{
    .name = "roll",
    .formula = "y[(i + shift) mod size] = x[i]",
    .source = "NumPy's roll",
    .samples =
        [] {
          const auto sample = [](const char* label, const Tensor& x, const Shape& shifts,
                                 const Shape& dims) {
            return OpSample{
                label,
                {x},
                [=](const TensorList& in) { return TensorList{roll(in[0], shifts, dims)}; },
                {}};
          };
          return std::vector<OpSample>{
              sample("two dimensions", samples::normal({2, 3, 4}), {-1, 2}, {1, -1}),
              sample("more than the size", samples::normal({5}), {12}, {0}),
              sample("by nothing", samples::normal({3}), {3}, {0}),
              sample("strided", samples::strided(samples::normal({3, 4})), {1, 1}, {0, 1}),
              sample("size 0", samples::normal({0, 2}), {1}, {0})};
        },
    .wrong_calls = {[] { roll(samples::normal({3}), {1}, {1}); },
                    [] {
                      roll(samples::normal({3}), {1, 2}, {0});
                    },
                    [] {
                      roll(samples::normal({3}), {1, 2}, {0, 0});
                    }},
}};

}  // namespace

Tensor pad(const Tensor& x, const Shape& pairs, PadMode mode, double value) {
  check(pairs.rank() % 2 == 0 && pairs.rank() / 2 <= x.rank(),
        "pad: pairs {} must be (before, after) of up to {} dimensions", pairs, x.rank());
  Tensor y = x;
  Shape before = Shape::filled(x.rank(), 0);
  Shape shape = x.shape();
  for (int64_t i = 0; i < pairs.rank() / 2; ++i) {
    const int64_t d = x.rank() - 1 - i;
    y = crop(y, d, pairs[2 * i], pairs[2 * i + 1]);
    before[d] = std::max<int64_t>(0, pairs[2 * i]);
    const int64_t after = std::max<int64_t>(0, pairs[2 * i + 1]);
    check_padding(mode, y, d, before[d], after);
    shape[d] = y.shape()[d] + before[d] + after;
    if (mode == PadMode::constant || shape[d] == y.shape()[d]) continue;
    y = axis_map(y, d, pad_table(mode, y.shape()[d], before[d], after), "pad");
  }
  return shape == y.shape() ? y : apply(PadConstant{before, y.shape(), shape, value}, y);
}

Tensor roll(const Tensor& x, const Shape& shifts, const Shape& dims) {
  check(shifts.rank() == dims.rank(), "roll: shifts {} and dims {} differ in length", shifts, dims);
  normalize_dims(dims, x.rank(), "roll");
  Shape all = Shape::filled(x.rank(), 0);
  for (int64_t i = 0; i < dims.rank(); ++i) {
    const int64_t d = normalize_dim(dims[i], x.rank(), "roll");
    const int64_t n = x.shape()[d];
    if (n > 0) all[d] = (shifts[i] % n + n) % n;
  }
  return apply(Roll{all}, x);
}

}  // namespace tessera
