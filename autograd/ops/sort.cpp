#include "tessera/autograd/ops/sort.h"

#include <algorithm>
#include <vector>

#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/rows.h"
#include "tessera/autograd/ops/softmax_rows.h"
#include "tessera/autograd/ops/sort_cuda.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using detail::Halves;
using detail::RowView;

template <class T>
struct Entry {
  T value;
  int64_t index;
};

// The order of a row's entries; no two are equal.
template <class T>
struct Before {
  bool descending;
  bool operator()(const Entry<T>& a, const Entry<T>& b) const {
    if (detail::greater(a.value, b.value)) return descending;
    if (detail::greater(b.value, a.value)) return !descending;
    return a.index < b.index;
  }
};

// Indices (R, count) of what `place(entries, before)` leaves at [first, first + count) of a row.
template <class Place>
Tensor order_rows(const Tensor& x, int64_t first, int64_t count, bool descending,
                  const Place& place) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) {
      return detail::order_rows_cuda(x.detach(), first, count, descending);
    }
  }
  const Tensor from = kernels::contiguous(x.detach());
  const Tensor index = empty({x.size(0), count}, {DType::i64, x.device()});
  const int64_t n = x.size(1);
  int64_t* out = index.data<int64_t>();
  detail::visit_comparable(x.dtype(), [&]<class T>() {
    const T* in = from.data<T>();
    detail::parallel_rows(x.size(0), 8 * n, [&](int64_t r) {
      thread_local std::vector<Entry<T>> entries;
      entries.resize(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) entries[static_cast<size_t>(i)] = {in[r * n + i], i};
      place(entries, Before<T>{descending});
      for (int64_t i = 0; i < count; ++i) {
        out[r * count + i] = entries[static_cast<size_t>(first + i)].index;
      }
    });
  });
  return index;
}

Tensor sorted_rows(const Tensor& x, int64_t k, bool descending) {
  return order_rows(x, 0, k, descending, [k](auto& entries, const auto& before) {
    // A heap of k is the quickest for a few, selection for many.
    const auto middle = entries.begin() + k;
    if (16 * k < static_cast<int64_t>(entries.size())) {
      std::partial_sort(entries.begin(), middle, entries.end(), before);
      return;
    }
    if (middle != entries.end()) std::nth_element(entries.begin(), middle, entries.end(), before);
    std::sort(entries.begin(), middle, before);
  });
}

ValuesIndices take(const RowView& view, const Tensor& index) {
  return {view.along(gather(view.matrix(), 1, index)), view.along(index)};
}

using Selection = std::function<Tensor(const Tensor&)>;

std::vector<OpSample> value_samples(const Selection& f) {
  const TensorFunction run = [f](const TensorList& x) { return TensorList{f(x[0])}; };
  return {{"(2, 3, 4)", {samples::normal({2, 3, 4})}, run, {}},
          {"strided", {samples::strided(samples::normal({3, 5}, 1))}, run, {}},
          {"size 1", {samples::normal({2, 1}, 2)}, run, {}},
          {"no rows", {samples::normal({0, 3})}, run, {}}};
}

OpInfo value_row(const char* name, const char* formula, const Selection& f,
                 std::vector<std::function<void()>> wrong_calls, int orders = 2) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .orders = orders,
          .samples = [=] { return value_samples(f); },
          .wrong_calls = std::move(wrong_calls)};
}

const RegisterOp topk_row{
    value_row("topk", "the k greatest entries along dim, descending, and their indices",
              [](const Tensor& x) { return topk(x, std::min<int64_t>(2, x.size(-1))).values; },
              {[] { topk(samples::normal({3}), 4); }, [] { topk(samples::normal({3}), -1); },
               [] { topk(samples::normal({3}), 1, 1); }, [] { topk(samples::normal({}), 1); }})};
const RegisterOp sort_row{value_row("sort",
                                    "the entries along dim in ascending order, and their indices",
                                    [](const Tensor& x) { return sort(x, -2, true).values; },
                                    {[] { sort(samples::normal({3}), 1); }})};
const RegisterOp argsort_row{value_row(
    "argsort", "indices that sort x along dim", [](const Tensor& x) { return argsort(x); },
    {[] { argsort(samples::normal({3}), 1); }}, 0)};
const RegisterOp kth_row{value_row(
    "kth_value", "the k-th least entry along dim, and its index",
    [](const Tensor& x) { return kth_value(x, std::min<int64_t>(2, x.size(-1))).values; },
    {[] { kth_value(samples::normal({3}), 0); }, [] { kth_value(samples::normal({3}), 4); }})};

// Rows of ops on integers.
OpInfo integer_row(const char* name, const char* formula, const Selection& f,
                   std::vector<std::function<void()>> wrong_calls) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .orders = 0,
          .samples =
              [f] {
                const TensorFunction run = [f](const TensorList& x) { return TensorList{f(x[0])}; };
                return std::vector<OpSample>{{"(2, 5)", {samples::integers({2, 5}, 0, 4)}, run, {}},
                                             {"size 0", {samples::integers({0}, 0, 4)}, run, {}}};
              },
          .wrong_calls = std::move(wrong_calls),
          .reads_values = "the shape of the result depends on the values"};
}

const RegisterOp one_hot_row{integer_row(
    "one_hot", "y[…, c] = 1 where ids = c, else 0", [](const Tensor& x) { return one_hot(x, 4); },
    {[] { one_hot(samples::integers({3}, 4, 5), 4); }, [] { one_hot(samples::normal({3}), 4); },
     [] { one_hot(samples::integers({3}, 0, 1), -1); }})};
const RegisterOp bincount_row{integer_row(
    "bincount", "y[c] = how often c occurs", [](const Tensor& x) { return bincount(x, 2); },
    {[] { bincount(samples::integers({3}, -2, -1)); }, [] { bincount(samples::normal({3})); },
     [] { bincount(samples::integers({3}, 0, 1), -1); }})};
const RegisterOp unique_row{integer_row("unique", "the distinct entries in ascending order",
                                        [](const Tensor& x) { return unique(x).values; },
                                        {[] { unique(samples::normal({3})); }})};

}  // namespace

ValuesIndices topk(const Tensor& x, int64_t k, int64_t dim, bool largest) {
  const RowView view = detail::rows_along(x, dim, "topk", Halves::kept_on_cuda);
  check(k >= 0 && k <= view.size(), "topk: k = {} of the {} entries along dimension {} of {}", k,
        view.size(), dim, x.shape());
  return take(view, sorted_rows(view.matrix(), k, largest));
}

ValuesIndices sort(const Tensor& x, int64_t dim, bool descending) {
  const RowView view = detail::rows_along(x, dim, "sort", Halves::kept_on_cuda);
  return take(view, sorted_rows(view.matrix(), view.size(), descending));
}

Tensor argsort(const Tensor& x, int64_t dim, bool descending) {
  NoGrad off;
  const RowView view = detail::rows_along(x, dim, "argsort", Halves::kept_on_cuda);
  return view.along(sorted_rows(view.matrix(), view.size(), descending));
}

ValuesIndices kth_value(const Tensor& x, int64_t k, int64_t dim, bool keep_dims) {
  const RowView view = detail::rows_along(x, dim, "kth_value", Halves::kept_on_cuda);
  check(k >= 1 && k <= view.size(),
        "kth_value: k = {} is not in 1 … {}, the size of dimension {} of {}", k, view.size(), dim,
        x.shape());
  const Tensor index =
      order_rows(view.matrix(), k - 1, 1, false, [k](auto& entries, const auto& before) {
        std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), before);
      });
  return {view.reduced(gather(view.matrix(), 1, index), keep_dims), view.reduced(index, keep_dims)};
}

Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype) {
  check(classes >= 0, "one_hot: {} classes", classes);
  const Tensor dense = detail::checked_ids("one_hot", "id", ids, classes);
  Shape shape = ids.shape();
  shape.push_back(classes);
  // One addition per line, in a dtype that every device adds.
  const DType adds = is_half(dtype) || dtype == DType::boolean ? DType::u8 : dtype;
  const Tensor y = zeros({dense.numel(), classes}, {adds, ids.device()});
  const Tensor place = views::reshape(dense, {dense.numel(), 1});
  kernels::scatter_add(y, 1, place, ones(place.shape(), {adds, ids.device()}));
  return views::reshape(kernels::cast(y, dtype), shape);
}

Tensor bincount(const Tensor& ids, int64_t min_length) {
  check(min_length >= 0, "bincount: min_length {} is negative", min_length);
  if (ids.device().is_cuda()) {
    return kernels::to_device(bincount(kernels::to_device(ids, {}), min_length), ids.device());
  }
  const Tensor dense = detail::checked_ids("bincount", "id", ids, INT64_MAX);
  const int64_t* id = dense.data<int64_t>();
  int64_t length = min_length;
  for (int64_t i = 0; i < dense.numel(); ++i) length = std::max(length, id[i] + 1);
  const Tensor counts = zeros({length}, {DType::i64, ids.device()});
  int64_t* count = counts.data<int64_t>();
  for (int64_t i = 0; i < dense.numel(); ++i) ++count[id[i]];
  return counts;
}

Unique unique(const Tensor& x) {
  check(is_integral(x.dtype()), "unique: wants integers, got {} of shape {}", x.dtype(), x.shape());
  if (x.device().is_cuda()) {
    const Unique found = unique(kernels::to_device(x, {}));
    const auto back = [&](const Tensor& t) { return kernels::to_device(t, x.device()); };
    return {back(found.values), back(found.inverse), back(found.counts)};
  }
  const Tensor dense = kernels::contiguous(kernels::cast(x, DType::i64));
  const std::vector<int64_t> all = dense.to_vector<int64_t>();
  std::vector<int64_t> values = all;
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  std::vector<int64_t> counts(values.size());
  const Tensor inverse = empty_like(dense);
  int64_t* place = inverse.data<int64_t>();
  for (int64_t i = 0; i < dense.numel(); ++i) {
    const auto found = std::lower_bound(values.begin(), values.end(), all[static_cast<size_t>(i)]);
    place[i] = found - values.begin();
    ++counts[static_cast<size_t>(place[i])];
  }
  const Shape shape = {static_cast<int64_t>(values.size())};
  return {kernels::cast(from_values(values, shape), x.dtype()), inverse,
          from_values(counts, shape)};
}

}  // namespace tessera
