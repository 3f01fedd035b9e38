#include "tessera/autograd/ops/indexing.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

Tensor zeros_of(const Shape& shape, const Tensor& like) {
  return zeros(shape, {like.dtype(), like.device()});
}

struct IndexSelect {
  static constexpr std::string_view name = "index_select";
  int64_t dim;
  Shape from;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& ids) const {
    f.save(ids);
    return kernels::take(x, dim, ids);
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    if (b.recording()) {
      b.add(0, index_add(zeros_of(from, g), dim, b.saved(0), g));
    } else {
      kernels::add_at(b.zeroed(0, from, g.dtype()), dim, b.saved(0), g);
    }
  }
};

struct IndexAdd {
  static constexpr std::string_view name = "index_add";
  int64_t dim;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& ids, const Tensor& src) const {
    f.save(ids);
    const Tensor y = kernels::clone(x);
    kernels::add_at(y, dim, ids, src);
    return y;
  }
  void backward(Backward& b) const {
    b.add(0, b.grad());
    if (b.needs(2)) b.add(2, index_select(b.grad(), dim, b.saved(0)));
  }
};

struct Gather {
  static constexpr std::string_view name = "gather";
  int64_t dim;
  Shape from;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& index) const {
    f.save(index);
    return kernels::gather(x, dim, index);
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    if (b.recording()) {
      b.add(0, scatter_add(zeros_of(from, g), dim, b.saved(0), g));
    } else {
      kernels::scatter_add(b.zeroed(0, from, g.dtype()), dim, b.saved(0), g);
    }
  }
};

struct ScatterAdd {
  static constexpr std::string_view name = "scatter_add";
  int64_t dim;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& index, const Tensor& src) const {
    f.save(index);
    const Tensor y = kernels::clone(x);
    kernels::scatter_add(y, dim, index, src);
    return y;
  }
  void backward(Backward& b) const {
    b.add(0, b.grad());
    if (b.needs(2)) b.add(2, gather(b.grad(), dim, b.saved(0)));
  }
};

struct Scatter {
  static constexpr std::string_view name = "scatter";
  int64_t dim;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& index, const Tensor& src) const {
    f.save(index);
    const Tensor y = kernels::clone(x);
    kernels::scatter(y, dim, index, src);
    return y;
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    const Tensor index = b.saved(0);
    if (b.needs(0)) b.add(0, scatter(g, dim, index, zeros_of(index.shape(), g)));
    if (b.needs(2)) b.add(2, gather(g, dim, index) * winners(g, index));
  }

 private:
  // 1 where an entry of src is what remained in y, 0 where a later one took its place.
  Tensor winners(const Tensor& y, const Tensor& index) const {
    const Options i64 = {DType::i64, y.device()};
    const auto count = static_cast<double>(index.numel());
    const Tensor position = views::reshape(arange(0, count, 1, i64), index.shape());
    const Tensor owner = zeros(y.shape(), i64);
    kernels::scatter(owner, dim, index, position);
    return eq(kernels::gather(owner, dim, index), position).to(y.dtype());
  }
};

Tensor checked_list(std::string_view op, const Tensor& x, int64_t dim, const Tensor& ids) {
  check(ids.rank() == 1, "{}: the ids must be a list (N), got shape {}", op, ids.shape());
  return detail::checked_ids(op, "id", ids, x.shape()[dim]);
}

Tensor checked_index(std::string_view op, const Tensor& x, int64_t dim, const Tensor& index) {
  check(index.rank() == x.rank(), "{}: the index {} must have the rank of the tensor {}", op,
        index.shape(), x.shape());
  for (int64_t d = 0; d < x.rank(); ++d) {
    check(d == dim || index.shape()[d] <= x.shape()[d],
          "{}: the index {} is larger than the tensor {} in dimension {}", op, index.shape(),
          x.shape(), d);
  }
  return detail::checked_ids(op, "index", index, x.shape()[dim]);
}

Tensor checked_source(std::string_view op, const Tensor& x, const Tensor& src, const Shape& shape) {
  check(src.shape() == shape, "{}: the source must have shape {}, got {}", op, shape, src.shape());
  check(!is_half(x.dtype()) || x.device().is_cuda(),
        "{}: wants f32 or f64, got {}; convert with to(DType::f32)", op, x.dtype());
  return src.to(x.dtype());
}

// The samples of one op: the floating inputs come first, the indices last.
OpSample sample(std::string label, TensorList inputs, const Tensor& index,
                std::function<Tensor(const TensorList&, const Tensor& index)> run) {
  inputs.push_back(index);
  return {std::move(label),
          std::move(inputs),
          [run](const TensorList& x) { return TensorList{run(x, x.back())}; },
          {}};
}

Tensor ids_of(std::vector<int64_t> values) {
  return from_values(values, {static_cast<int64_t>(values.size())});
}

std::vector<OpSample> select_samples() {
  const auto select = [](std::string label, const Tensor& from, int64_t dim, const Tensor& ids) {
    return sample(std::move(label), {from}, ids, [dim](const TensorList& x, const Tensor& index) {
      return index_select(x[0], dim, index);
    });
  };
  return {select("rows", samples::normal({4, 3}), 0, ids_of({3, 0, 3})),
          select("last dimension", samples::normal({2, 4}), -1, ids_of({1, 1, 2})),
          select("middle", samples::normal({2, 3, 2}), 1, ids_of({2, 0})),
          select("strided", samples::strided(samples::normal({3, 4})), 0, ids_of({2, 2})),
          select("no ids", samples::normal({3, 2}), 0, ids_of({})),
          select("size 0", samples::normal({3, 0}), 0, ids_of({1})),
          select("size 1", samples::normal({1}), 0, ids_of({0, 0}))};
}

std::vector<OpSample> add_samples() {
  const auto add = [](std::string label, const Tensor& to, const Tensor& src, int64_t dim,
                      const Tensor& ids) {
    return sample(std::move(label), {to, src}, ids,
                  [dim](const TensorList& x, const Tensor& index) {
                    return index_add(x[0], dim, index, x[1]);
                  });
  };
  return {add("rows", samples::normal({4, 3}), samples::normal({3, 3}, 1), 0, ids_of({3, 0, 3})),
          add("last dimension, strided", samples::strided(samples::normal({2, 4})),
              samples::strided(samples::normal({2, 3}, 1)), -1, ids_of({1, 1, 2})),
          add("size 1", samples::normal({1}), samples::normal({2}, 1), 0, ids_of({0, 0})),
          add("no ids", samples::normal({3, 2}), samples::normal({0, 2}, 1), 0, ids_of({}))};
}

struct IndexCase {
  const char* label;
  Tensor x;
  int64_t dim;
  Tensor index;
};

std::vector<IndexCase> index_cases() {
  return {
      {"rows", samples::normal({4, 3}), 0, samples::integers({5, 3}, 0, 4)},
      {"last dimension", samples::normal({2, 4}), -1, samples::integers({2, 3}, 0, 4)},
      {"smaller index", samples::normal({3, 4, 3}), 1, samples::integers({2, 2, 1}, 0, 4)},
      {"strided", samples::strided(samples::normal({3, 4})), 1, samples::integers({3, 2}, 0, 4)},
      {"size 1", samples::normal({1}), 0, samples::integers({1}, 0, 1)},
      {"size 0", samples::normal({2, 3}), 1, samples::integers({2, 0}, 0, 3)}};
}

std::vector<OpSample> gather_samples() {
  std::vector<OpSample> list;
  for (const IndexCase& c : index_cases()) {
    list.push_back(
        sample(c.label, {c.x}, c.index, [dim = c.dim](const TensorList& x, const Tensor& index) {
          return gather(x[0], dim, index);
        }));
  }
  return list;
}

using Write = Tensor (*)(const Tensor&, int64_t, const Tensor&, const Tensor&);

std::vector<OpSample> write_samples(Write op) {
  std::vector<OpSample> list;
  for (const IndexCase& c : index_cases()) {
    list.push_back(sample(c.label, {c.x, samples::normal(c.index.shape(), 7)}, c.index,
                          [op, dim = c.dim](const TensorList& x, const Tensor& index) {
                            return op(x[0], dim, index, x[1]);
                          }));
  }
  return list;
}

OpInfo write_row(const char* name, const char* formula, Write op) {
  return {
      .name = name,
      .formula = formula,
      .source = "",
      .samples = [op] { return write_samples(op); },
      .wrong_calls = {[op] {
                        op(samples::normal({2, 3}), 1, ids_of({0}), samples::normal({1}));
                      },
                      [op] { op(samples::normal({3}), 0, ids_of({-1}), samples::normal({1})); },
                      [op] { op(samples::normal({3}), 0, ids_of({1}), samples::normal({2})); }}};
}

const RegisterOp select_row{{
    .name = "index_select",
    .formula = "y[…, i, …] = x[…, ids[i], …]",
    .source = "",
    .samples = select_samples,
    .wrong_calls = {[] {
                      index_select(samples::normal({3}), 0, ids_of({0, 3}));
                    },
                    [] { index_select(samples::normal({3}), 0, ids_of({-1})); },
                    [] { index_select(samples::normal({3}), 0, samples::normal({1})); },
                    [] { index_select(samples::normal({3}), 1, ids_of({0})); }},
}};
const RegisterOp add_row{{
    .name = "index_add",
    .formula = "y = x; y[…, ids[i], …] += src[…, i, …]",
    .source = "",
    .samples = add_samples,
    .wrong_calls = {[] { index_add(samples::normal({3}), 0, ids_of({3}), samples::normal({1})); },
                    [] { index_add(samples::normal({3}), 0, ids_of({0}), samples::normal({2})); }},
}};
const RegisterOp gather_row{{
    .name = "gather",
    .formula = "y[…, k, …] = x[…, index[…, k, …], …]",
    .source = "",
    .samples = gather_samples,
    .wrong_calls = {[] {
                      gather(samples::normal({2, 3}), 1, ids_of({0}));
                    },
                    [] {
                      gather(samples::normal({3}), 0, ids_of({0, 3}));
                    },
                    [] {
                      gather(samples::normal({2, 3}), 1, samples::integers({3, 1}, 0, 2));
                    }},
}};
const RegisterOp scatter_add_row{
    write_row("scatter_add", "y = x; y[…, index[…, k, …], …] += src[…, k, …]", scatter_add)};
const RegisterOp scatter_row{
    write_row("scatter", "y = x; y[…, index[…, k, …], …] = src[…, k, …]", scatter)};

}  // namespace

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& ids) {
  dim = normalize_dim(dim, x.rank(), "index_select");
  return apply(IndexSelect{dim, x.shape()}, x, checked_list("index_select", x, dim, ids));
}

Tensor index_add(const Tensor& x, int64_t dim, const Tensor& ids, const Tensor& src) {
  dim = normalize_dim(dim, x.rank(), "index_add");
  const Tensor list = checked_list("index_add", x, dim, ids);
  Shape shape = x.shape();
  shape[dim] = list.numel();
  return apply(IndexAdd{dim}, x, list, checked_source("index_add", x, src, shape));
}

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  dim = normalize_dim(dim, x.rank(), "gather");
  return apply(Gather{dim, x.shape()}, x, checked_index("gather", x, dim, index));
}

Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src) {
  dim = normalize_dim(dim, x.rank(), "scatter_add");
  const Tensor ids = checked_index("scatter_add", x, dim, index);
  return apply(ScatterAdd{dim}, x, ids, checked_source("scatter_add", x, src, index.shape()));
}

Tensor scatter(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src) {
  dim = normalize_dim(dim, x.rank(), "scatter");
  const Tensor ids = checked_index("scatter", x, dim, index);
  return apply(Scatter{dim}, x, ids, checked_source("scatter", x, src, index.shape()));
}

}  // namespace tessera
