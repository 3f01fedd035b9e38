#include "tessera/autograd/ops/view.h"

#include <fmt/ranges.h>

#include "tessera/autograd/op.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct Reshape {
  static constexpr std::string_view name = "reshape";
  Shape from;
  Shape to;
  Tensor forward(Forward&, const Tensor& x) const { return views::reshape(x, to); }
  void backward(Backward& b) const { b.add(0, reshape(b.grad(), from)); }
};

struct Permute {
  static constexpr std::string_view name = "permute";
  Shape order;
  Tensor forward(Forward&, const Tensor& x) const { return views::permute(x, order); }
  void backward(Backward& b) const {
    Shape inverse = order;
    for (int64_t i = 0; i < order.rank(); ++i) inverse[order[i]] = i;
    b.add(0, permute(b.grad(), inverse));
  }
};

Tensor embed_slice(const Tensor& x, const Shape& shape, int64_t dim, int64_t start, int64_t step);

struct Slice {
  static constexpr std::string_view name = "slice";
  Shape from;
  int64_t dim;
  int64_t start;
  int64_t stop;
  int64_t step;

  Tensor forward(Forward&, const Tensor& x) const {
    return views::slice(x, dim, start, stop, step);
  }
  void backward(Backward& b) const {
    if (b.recording()) {
      b.add(0, embed_slice(b.grad(), from, dim, start, step));
    } else {
      const Tensor buffer = b.zeroed(0, from, b.grad().dtype());
      kernels::add_in_place(views::slice(buffer, dim, start, stop, step), b.grad());
    }
  }
};

// The adjoint of slice: zeros with the `count` entries of x in the sliced places.
struct EmbedSlice {
  static constexpr std::string_view name = "slice";
  Shape shape;
  int64_t dim;
  int64_t start;
  int64_t step;
  int64_t count;

  int64_t stop() const { return start + (count - 1) * step + (step > 0 ? 1 : -1); }
  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor y = zeros(shape, {x.dtype(), x.device()});
    if (count > 0) kernels::copy(views::slice(y, dim, start, stop(), step), x);
    return y;
  }
  void backward(Backward& b) const {
    b.add(0, count == 0 ? slice(b.grad(), dim, 0, 0)
                        : apply(Slice{shape, dim, start, stop(), step}, b.grad()));
  }
};

Tensor embed_slice(const Tensor& x, const Shape& shape, int64_t dim, int64_t start, int64_t step) {
  return apply(EmbedSlice{shape, dim, start, step, x.shape()[dim]}, x);
}

struct Concat {
  static constexpr std::string_view name = "concat";
  int64_t dim;
  std::vector<int64_t> sizes;

  Tensor forward(Forward&, const TensorList& xs) const {
    Shape shape = xs[0].shape();
    shape[dim] = 0;
    for (int64_t size : sizes) shape[dim] += size;
    const Tensor y = empty(shape, {xs[0].dtype(), xs[0].device()});
    int64_t at = 0;
    for (const Tensor& x : xs) {
      kernels::copy(views::slice(y, dim, at, at + x.shape()[dim]), x);
      at += x.shape()[dim];
    }
    return y;
  }
  void backward(Backward& b) const {
    int64_t at = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (b.needs(static_cast<int>(i))) {
        b.add(static_cast<int>(i), slice(b.grad(), dim, at, at + sizes[i]));
      }
      at += sizes[i];
    }
  }
};

// Neighbouring slices at once. A kernel that writes the gradients of all parts side by side into
// one buffer has already joined them.
struct Split {
  static constexpr std::string_view name = "split";
  Shape from;
  int64_t dim;
  std::vector<int64_t> sizes;

  TensorList forward(Forward&, const Tensor& x) const { return parts_of(x); }

  void backward(Backward& b) const {
    TensorList grads;
    for (size_t i = 0; i < sizes.size(); ++i) grads.push_back(b.grad(static_cast<int>(i)));
    if (b.recording()) return b.add(0, concat(grads, dim));
    Tensor joined = side_by_side(grads);
    if (!joined.defined()) {
      joined = empty(from, {grads[0].dtype(), grads[0].device()});
      const TensorList parts = parts_of(joined);
      for (size_t i = 0; i < parts.size(); ++i) kernels::copy(parts[i], grads[i]);
    }
    b.add(0, joined);
  }

 private:
  TensorList parts_of(const Tensor& x) const {
    TensorList parts;
    int64_t at = 0;
    for (int64_t size : sizes) {
      parts.push_back(views::slice(x, dim, at, at + size));
      at += size;
    }
    return parts;
  }

  // The dense tensor whose parts these are; undefined when they are not.
  Tensor side_by_side(const TensorList& grads) const {
    const Tensor& first = grads[0];
    const Tensor whole(first.storage(), from, first.strides(), first.offset(), first.dtype());
    if (!whole.is_contiguous()) return {};
    int64_t at = first.offset();
    for (size_t i = 0; i < grads.size(); ++i) {
      const Tensor& g = grads[i];
      if (g.storage() != first.storage() || g.strides() != first.strides() || g.offset() != at) {
        return {};
      }
      at += sizes[i] * first.strides()[dim];
    }
    return whole;
  }
};

struct Clone {
  static constexpr std::string_view name = "clone";
  Tensor forward(Forward&, const Tensor& x) const { return kernels::clone(x); }
  void backward(Backward& b) const { b.add(0, b.grad()); }
};

OpSample sample(const char* label, const Shape& shape, std::function<Tensor(const Tensor&)> f) {
  return {label,
          {samples::normal(shape)},
          [f](const TensorList& x) { return TensorList{f(x[0])}; },
          {}};
}

const RegisterOp reshape_row{{
    .name = "reshape",
    .formula = "the same elements in row-major order under another shape",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("(2, 6) to (3, −1)", {2, 6},
                     [](const Tensor& x) {
                       return reshape(x, {3, -1});
                     }),
              sample("of a transpose", {2, 6},
                     [](const Tensor& x) { return reshape(transpose(x, 0, 1), {12}); }),
              sample("flatten", {2, 3, 2}, [](const Tensor& x) { return flatten(x, 1); }),
              sample("size 0", {0, 3}, [](const Tensor& x) {
                return reshape(x, {3, 0, 2});
              })};
        },
    .wrong_calls = {[] { reshape(samples::normal({4}), {3}); },
                    [] {
                      reshape(samples::normal({4}), {-1, -1});
                    }},
}};

const RegisterOp permute_row{{
    .name = "permute",
    .formula = "y[i_{order}] = x[i]",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("(2, 3, 4)", {2, 3, 4},
                     [](const Tensor& x) {
                       return permute(x, {2, 0, 1});
                     }),
              sample("transpose", {2, 3}, [](const Tensor& x) { return transpose(x, 0, -1); })};
        },
    .wrong_calls = {[] {
                      permute(samples::normal({2, 3}), {0, 0});
                    },
                    [] {
                      permute(samples::normal({2, 3}), {0});
                    }},
}};

const RegisterOp slice_row{{
    .name = "slice",
    .formula = "y = x[start:stop:step] along dim",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("middle", {2, 6}, [](const Tensor& x) { return slice(x, 1, 1, 4); }),
              sample("steps of 2", {2, 7}, [](const Tensor& x) { return slice(x, 1, 0, kEnd, 2); }),
              sample("backwards", {5, 2}, [](const Tensor& x) { return slice(x, 0, 4, 0, -2); }),
              sample("select", {3, 4}, [](const Tensor& x) { return select(x, 0, -1); }),
              sample("empty", {3, 4}, [](const Tensor& x) { return slice(x, 0, 2, 2); }),
              sample("flip", {3, 4},
                     [](const Tensor& x) {
                       return flip(x, {0, 1});
                     }),
              sample("twice from one tensor", {6}, [](const Tensor& x) {
                return concat({slice(x, 0, 0, 4), slice(x, 0, 2, 6)}, 0);
              })};
        },
    .wrong_calls = {[] { slice(samples::normal({2}), 1, 0); },
                    [] { slice(samples::normal({2}), 0, 0, 2, 0); }},
}};

const RegisterOp concat_row{{
    .name = "concat",
    .formula = "the inputs one after another along dim",
    .source = "",
    .samples =
        [] {
          std::vector<OpSample> list;
          list.push_back(
              {"three",
               {samples::normal({2, 1}), samples::normal({2, 3}, 1), samples::normal({2, 0})},
               [](const TensorList& x) { return TensorList{concat(x, 1)}; },
               {}});
          list.push_back({"stack",
                          {samples::normal({2, 3}), samples::normal({2, 3}, 1)},
                          [](const TensorList& x) { return TensorList{stack(x, 1)}; },
                          {}});
          list.push_back({"split and one part unused",
                          {samples::normal({2, 6})},
                          [](const TensorList& x) {
                            const TensorList parts = split(x[0], {1, 2, 3}, 1);
                            return TensorList{parts[0], parts[2]};
                          },
                          {}});
          return list;
        },
    .wrong_calls = {[] { concat({}, 0); },
                    [] {
                      concat({samples::normal({2, 3}), samples::normal({3, 3})}, 1);
                    }},
}};

const RegisterOp clone_row{{
    .name = "clone",
    .formula = "y = x in fresh memory",
    .source = "",
    .samples = [] { return samples::unary([](const Tensor& x) { return clone(x); }); },
    .wrong_calls = {},
}};

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  const Shape to = views::infer_shape(shape, x.numel(), "reshape");
  return to == x.shape() ? x : apply(Reshape{x.shape(), to}, x);
}

Tensor flatten(const Tensor& x, int64_t first, int64_t last) {
  if (x.rank() == 0) return reshape(x, {1});
  first = normalize_dim(first, x.rank(), "flatten");
  last = normalize_dim(last, x.rank(), "flatten");
  check(first <= last, "flatten: dimensions {} to {} of {} are in the wrong order", first, last,
        x.shape());
  Shape shape;
  for (int64_t d = 0; d < x.rank(); ++d) {
    if (d > first && d <= last) {
      shape.back() *= x.shape()[d];
    } else {
      shape.push_back(x.shape()[d]);
    }
  }
  return reshape(x, shape);
}

Tensor permute(const Tensor& x, const Shape& order) {
  check(order.rank() == x.rank(), "permute: order {} does not fit shape {}", order, x.shape());
  normalize_dims(order, x.rank(), "permute");
  Shape positive = order;
  for (int64_t& d : positive) d = normalize_dim(d, x.rank(), "permute");
  return apply(Permute{positive}, x);
}

Tensor transpose(const Tensor& x, int64_t a, int64_t b) {
  Shape order;
  for (int64_t d = 0; d < x.rank(); ++d) order.push_back(d);
  std::swap(order[normalize_dim(a, x.rank(), "transpose")],
            order[normalize_dim(b, x.rank(), "transpose")]);
  return permute(x, order);
}

Tensor unsqueeze(const Tensor& x, int64_t dim) {
  Shape shape = x.shape();
  shape.insert(normalize_dim(dim, x.rank() + 1, "unsqueeze"), 1);
  return reshape(x, shape);
}

Tensor squeeze(const Tensor& x, int64_t dim) {
  dim = normalize_dim(dim, x.rank(), "squeeze");
  check(x.shape()[dim] == 1, "squeeze: dimension {} of {} is not 1", dim, x.shape());
  Shape shape = x.shape();
  shape.erase(dim);
  return reshape(x, shape);
}

Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t stop, int64_t step) {
  dim = normalize_dim(dim, x.rank(), "slice");
  const int64_t size = x.shape()[dim];
  check(step != 0, "slice: step must not be 0 (dimension {} of {})", dim, x.shape());
  if (step > 0) {  // resolved here, so that the adjoint knows the places
    start = std::clamp<int64_t>(start < 0 ? start + size : start, 0, size);
    stop = std::clamp<int64_t>(stop < 0 ? stop + size : stop, start, size);
    if (start == 0 && stop == size && step == 1) return x;
  }
  return apply(Slice{x.shape(), dim, start, stop, step}, x);
}

Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  dim = normalize_dim(dim, x.rank(), "select");
  const int64_t size = x.shape()[dim];
  check(index >= -size && index < size, "select: index {} is out of range for dimension {} of {}",
        index, dim, x.shape());
  if (index < 0) index += size;
  return squeeze(slice(x, dim, index, index + 1), dim);
}

Tensor flip(const Tensor& x, const Shape& dims) {
  Tensor y = x;
  for (int64_t d : normalize_dims(dims, x.rank(), "flip")) {
    if (x.shape()[d] > 1) y = slice(y, d, x.shape()[d] - 1, -1, -1);
  }
  return contiguous(y);
}

Tensor clone(const Tensor& x) {
  return apply(Clone{}, x);
}

Tensor contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : clone(x);
}

TensorList split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t dim) {
  dim = normalize_dim(dim, x.rank(), "split");
  int64_t total = 0;
  for (int64_t size : sizes) {
    check(size >= 0, "split: negative size {}", size);
    total += size;
  }
  check(total == x.shape()[dim], "split: sizes ({}) do not add up to dimension {} of {}",
        fmt::join(sizes, ", "), dim, x.shape());
  if (sizes.empty()) return {};
  return apply(Split{x.shape(), dim, sizes}, x);
}

TensorList chunk(const Tensor& x, int64_t count, int64_t dim) {
  dim = normalize_dim(dim, x.rank(), "chunk");
  check(count > 0 && x.shape()[dim] % count == 0,
        "chunk: dimension {} of {} is not divisible by {}", dim, x.shape(), count);
  return split(x, std::vector<int64_t>(static_cast<size_t>(count), x.shape()[dim] / count), dim);
}

Tensor concat(const TensorList& xs, int64_t dim) {
  check(!xs.empty(), "concat: no tensors");
  dim = normalize_dim(dim, xs[0].rank(), "concat");
  DType dtype = xs[0].dtype();
  std::vector<int64_t> sizes;
  for (const Tensor& x : xs) {
    Shape expected = xs[0].shape();
    if (x.rank() == expected.rank()) expected[dim] = x.shape()[dim];
    check(x.shape() == expected, "concat: {} and {} differ outside dimension {}", xs[0].shape(),
          x.shape(), dim);
    check(x.device() == xs[0].device(), "concat: inputs on different devices: {} and {}",
          xs[0].device(), x.device());
    dtype = promote(dtype, x.dtype());
    sizes.push_back(x.shape()[dim]);
  }
  if (xs.size() == 1) return xs[0];
  TensorList same = xs;
  for (Tensor& x : same) x = x.to(dtype);
  return apply_list(Concat{dim, sizes}, same);
}

Tensor stack(const TensorList& xs, int64_t dim) {
  check(!xs.empty(), "stack: no tensors");
  TensorList rows;
  for (const Tensor& x : xs) {
    check(x.shape() == xs[0].shape(), "stack: shapes differ: {} and {}", xs[0].shape(), x.shape());
    rows.push_back(unsqueeze(x, dim));
  }
  return concat(rows, normalize_dim(dim, xs[0].rank() + 1, "stack"));
}

}  // namespace tessera
