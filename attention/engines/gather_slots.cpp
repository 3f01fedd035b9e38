#include "tessera/attention/engines/gather_slots.h"

#include <cmath>
#include <limits>

#include "tessera/attention/engines/gather_cuda.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace lists {

Lists::Lists(const Tensor& lists)
    : data(static_cast<const int32_t*>(lists.raw_data())),
      batches(static_cast<int>(lists.size(0))),
      heads(static_cast<int>(lists.size(1))),
      groups(static_cast<int>(lists.size(2))),
      width(static_cast<int>(lists.size(3))) {}

Tensor checked_lists(std::string_view op, std::string_view what, const Tensor& lists,
                     const Tensor& x, int64_t size) {
  const int64_t batch = x.size(0), heads = x.size(1);
  check(lists.rank() == 4 && (lists.size(0) == batch || lists.size(0) == 1) &&
            (lists.size(1) == heads || lists.size(1) == 1),
        "{}: {} is {}, wants ({} or 1, {} or 1, groups, width)", op, what, lists.shape(), batch,
        heads);
  check(lists.dtype() == DType::i32, "{}: {} is {}, wants i32", op, what, lists.dtype());
  check(lists.device() == x.device(), "{}: {} is on {}, the queries on {}", op, what,
        lists.device(), x.device());
  check(lists.size(2) * lists.size(3) < int64_t{1} << 30 && size < int64_t{1} << 30,
        "{}: {} {} is too long", op, what, lists.shape());
  if (lists.device().is_cpu()) detail::checked_ids(op, what, lists, size, -1);
  return kernels::contiguous(lists);
}

namespace {

// The slots of every query of one head, in order.
struct Inverse {
  std::vector<int32_t> first, slots;

  Inverse(const int32_t* list, int64_t count, int64_t queries)
      : first(static_cast<size_t>(queries + 1)) {
    for (int64_t s = 0; s < count; ++s) {
      if (list[s] >= 0) ++first[static_cast<size_t>(list[s]) + 1];
    }
    for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    slots.resize(static_cast<size_t>(first.back()));
    std::vector<int32_t> next(first.begin(), first.end() - 1);
    for (int64_t s = 0; s < count; ++s) {
      if (list[s] < 0) continue;
      slots[static_cast<size_t>(next[static_cast<size_t>(list[s])]++)] = static_cast<int32_t>(s);
    }
  }
  std::span<const int32_t> of(int64_t query) const {
    const auto i = static_cast<size_t>(query);
    return {slots.data() + first[i], static_cast<size_t>(first[i + 1] - first[i])};
  }
};

// fn(b, h, inverse lists) for every head.
template <class Fn>
void for_each_head(const Shape& shape, const Tensor& query_lists, int64_t queries, const Fn& fn) {
  const Lists lists(query_lists);
  const int64_t heads = shape[1];
  parallel_for(shape[0] * heads, shape.numel(), [&](int64_t t) {
    const int64_t b = t / heads, h = t % heads;
    fn(b, h, Inverse(lists.head(b, h), lists.size(), queries));
  });
}

template <class T>
T* row_of(const Tensor& x, int64_t b, int64_t h, int64_t i) {
  return x.data<T>() + b * x.stride(0) + h * x.stride(1) + i * x.stride(2);
}

template <class T>
void add_scaled(T* to, T weight, const T* from, int64_t width) {
#pragma omp simd
  for (int64_t d = 0; d < width; ++d) to[d] += weight * from[d];
}

template <class T>
constexpr T kNone = -std::numeric_limits<T>::infinity();

template <class T>
T logsumexp_of(std::span<const int32_t> slots, const T* lse, int64_t step) {
  T top = kNone<T>, sum = 0;
  for (const int32_t s : slots) top = std::max(top, lse[s * step]);
  if (top == kNone<T>) return top;
  for (const int32_t s : slots) sum += math::exp(lse[s * step] - top);
  return top + math::log(sum);
}

// The share of a slot in its query's result, and in the gradient of L.
template <class T>
struct Weights {
  T output = 0, logsumexp = 0;
  Weights(Combine how, T own, T all, size_t count) {
    logsumexp = own == kNone<T> ? T{0} : math::exp(own - all);
    output = how == Combine::merge ? logsumexp
             : how == Combine::sum ? T{1}
                                   : T{1} / static_cast<T>(count);
  }
};

template <class T>
void combine_forward(const AttentionResult& slots, const Tensor& lists, Combine how,
                     const AttentionResult& to) {
  const int64_t width = to.output.size(3), queries = to.output.size(2);
  const int64_t step = slots.logsumexp.stride(2);
  for_each_head(slots.output.shape(), lists, queries, [&](int64_t b, int64_t h, const Inverse& at) {
    const T* lse = row_of<T>(slots.logsumexp, b, h, 0);
    for (int64_t i = 0; i < queries; ++i) {
      const auto own = at.of(i);
      const T all = logsumexp_of(own, lse, step);
      *row_of<T>(to.logsumexp, b, h, i) = all;
      for (const int32_t s : own) {
        const Weights<T> w(how, lse[s * step], all, own.size());
        if (w.output == 0) continue;
        add_scaled(row_of<T>(to.output, b, h, i), w.output, row_of<T>(slots.output, b, h, s),
                   width);
      }
    }
  });
}

// Of merge: dO_s = w_s dO, dL_s = w_s (dL + ⟨dO, O_s − O⟩); the others: dL_s = exp(L_s − L) dL.
template <class T>
void combine_backward(const AttentionResult& slots, const Tensor& lists, Combine how,
                      const AttentionResult& r, const Tensor& grad, const Tensor& grad_lse,
                      const AttentionResult& to) {
  const int64_t width = r.output.size(3), queries = r.output.size(2);
  for_each_head(slots.output.shape(), lists, queries, [&](int64_t b, int64_t h, const Inverse& at) {
    for (int64_t i = 0; i < queries; ++i) {
      const auto own = at.of(i);
      const T* go = row_of<T>(grad, b, h, i);
      const T* all = row_of<T>(r.output, b, h, i);
      const T down = grad_lse.defined() ? *row_of<T>(grad_lse, b, h, i) : T{0};
      for (const int32_t s : own) {
        const Weights<T> w(how, *row_of<T>(slots.logsumexp, b, h, s),
                           *row_of<T>(r.logsumexp, b, h, i), own.size());
        const T* from = row_of<T>(slots.output, b, h, s);
        T dot = 0;
        if (how == Combine::merge && w.output != 0) {
#pragma omp simd reduction(+ : dot)
          for (int64_t d = 0; d < width; ++d) dot += go[d] * (from[d] - all[d]);
        }
        *row_of<T>(to.logsumexp, b, h, s) = w.logsumexp == 0 ? T{0} : w.logsumexp * (down + dot);
        add_scaled(row_of<T>(to.output, b, h, s), w.output, go, width);
      }
    }
  });
}

// x viewed as one row of slots: (B, H, G, W, …) → (B, H, G·W, …).
Tensor flat(const Tensor& x) {
  return flatten(x, 2, 3);
}

// Inputs: outputs (B, H, S, D) and logsumexps (B, H, S) of the slots.
struct CombineSlots {
  static constexpr std::string_view name = "combine_slots";
  Tensor lists;
  int64_t queries;
  Combine how;

  TensorList forward(Forward& f, const TensorList& in) const {
    const AttentionResult r = compute({engine::with_dense_rows(in[0]), in[1]});
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const Shape groups{lists.size(2), lists.size(3)};
    const Shape& s = in[0].shape();
    const AttentionResult r =
        combine_slots_reference({reshape(in[0], {s[0], s[1], groups[0], groups[1], s[3]}),
                                 reshape(in[1], {s[0], s[1], groups[0], groups[1]})},
                                lists, queries, how);
    return {r.output, r.logsumexp};
  }

  void backward(Backward& b) const {
    const AttentionResult slots{engine::with_dense_rows(b.input(0)), b.input(1)};
    const Tensor grad = engine::with_dense_rows(b.grad(0));
    const Tensor grad_lse = b.has_grad(1) ? b.grad(1) : Tensor();
    const AttentionResult g = gradients(slots, {b.saved(0), b.saved(1)}, grad, grad_lse);
    b.add(0, g.output);
    b.add(1, g.logsumexp);
  }

 private:
  AttentionResult compute(const AttentionResult& slots) const {
    const Tensor& o = slots.output;
    if constexpr (kCuda) {
      if (o.device().is_cuda()) return combine_slots_cuda(slots, lists, queries, how);
    }
    const AttentionResult r{
        engine::empty_heads({o.size(0), o.size(1), queries, o.size(3)}, o.dtype(), {}),
        empty({o.size(0), o.size(1), queries}, {slots.logsumexp.dtype(), {}})};
    kernels::fill(r.output, 0);
    visit_floating(name, o.dtype(), [&]<class T>() { combine_forward<T>(slots, lists, how, r); });
    return r;
  }

  AttentionResult gradients(const AttentionResult& slots, const AttentionResult& r,
                            const Tensor& grad, const Tensor& grad_lse) const {
    const Tensor& o = slots.output;
    if constexpr (kCuda) {
      if (o.device().is_cuda()) {
        return combine_slots_backward_cuda(slots, lists, how, r, grad, grad_lse);
      }
    }
    const AttentionResult g{zeros(o.shape(), {o.dtype(), {}}),
                            zeros(slots.logsumexp.shape(), {slots.logsumexp.dtype(), {}})};
    visit_floating(name, o.dtype(), [&]<class T>() {
      combine_backward<T>(slots, lists, how, r, grad, grad_lse, g);
    });
    return g;
  }
};

OpSample sample(const char* label, const Shape& outputs, const Tensor& query_lists, int64_t queries,
                Combine how) {
  const Shape slots{outputs[0], outputs[1], outputs[2], outputs[3]};
  auto with = [=](auto combine) {
    return [=](const TensorList& in) {
      const AttentionResult r = combine(AttentionResult{in[0], in[1]}, in[2], queries, how);
      return TensorList{r.output, masked_fill(r.logsumexp, eq(r.logsumexp, -INFINITY), 0)};
    };
  };
  return {label,
          {samples::strided(samples::normal(outputs)), samples::normal(slots, 1), query_lists},
          with(combine_slots),
          with(combine_slots_reference)};
}

Tensor list_of(const std::vector<int32_t>& values, const Shape& shape) {
  return from_values(values, shape);
}

std::vector<OpSample> all_samples() {
  const Tensor shared = list_of({0, 2, -1, 2, 4, 0, 0, 1}, {1, 1, 2, 4});
  const Tensor heads = samples::integers({2, 2, 3, 2}, -1, 5).to(DType::i32);
  std::vector<OpSample> list;
  for (const Combine how : {Combine::sum, Combine::mean, Combine::merge}) {
    list.push_back(sample("shared lists", {2, 2, 2, 4, 3}, shared, 6, how));
    list.push_back(sample("lists of heads", {2, 2, 3, 2, 1}, heads, 5, how));
    list.push_back(sample("no groups", {1, 2, 0, 2, 3}, list_of({}, {1, 1, 0, 2}), 2, how));
    list.push_back(sample("no queries", {1, 1, 1, 2, 3}, list_of({-1, -1}, {1, 1, 1, 2}), 0, how));
  }
  return list;
}

const RegisterOp row{{
    .name = "combine_slots",
    .formula = "O = Σ_s w_s O_s, L = log Σ_s exp(L_s) over the slots of a query; w_s is 1, 1 / "
               "count or exp(L_s − L)",
    .source = "Roy et al. 2021, \"Routing Transformer\"",
    .samples = all_samples,
    .wrong_calls = {
        [] {
          combine_slots({samples::normal({1, 1, 1, 2, 3}), samples::normal({1, 1, 1, 2})},
                        list_of({0, 3}, {1, 1, 1, 2}), 3, Combine::sum);
        },
        [] {
          combine_slots({samples::normal({1, 1, 1, 2, 3}), samples::normal({1, 1, 1, 2})},
                        list_of({0, 1, 2}, {1, 1, 1, 3}), 3, Combine::sum);
        },
        [] {
          combine_slots({samples::normal({1, 1, 2, 3}), samples::normal({1, 1, 2})},
                        list_of({0, 1}, {1, 1, 1, 2}), 3, Combine::sum);
        }},
}};

}  // namespace

Tensor sum_slots(const Tensor& x, const Tensor& query_lists, int64_t queries) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return sum_slots_cuda({x}, query_lists, queries, x.size(1))[0];
  }
  const Tensor sum = engine::empty_heads({x.size(0), x.size(1), queries, x.size(3)}, x.dtype(), {});
  kernels::fill(sum, 0);
  visit_floating("gather_attention", x.dtype(), [&]<class T>() {
    for_each_head(x.shape(), query_lists, queries, [&](int64_t b, int64_t h, const Inverse& at) {
      for (int64_t i = 0; i < queries; ++i) {
        for (const int32_t s : at.of(i)) {
          add_scaled(row_of<T>(sum, b, h, i), T{1}, row_of<T>(x, b, h, s), x.size(3));
        }
      }
    });
  });
  return sum;
}

}  // namespace lists

AttentionResult combine_slots(const AttentionResult& slots, const Tensor& query_lists,
                              int64_t queries, Combine how) {
  constexpr std::string_view op = lists::CombineSlots::name;
  const Tensor& o = slots.output;
  const Tensor lse = slots.logsumexp.to(is_half(o.dtype()) ? DType::f32 : o.dtype());
  check(o.rank() == 5 && lse.rank() == 4 &&
            lse.shape() == Shape{o.size(0), o.size(1), o.size(2), o.size(3)},
        "{}: wants (B, H, G, W, D) and (B, H, G, W), got {} and {}", op, o.shape(), lse.shape());
  const Tensor lists = lists::checked_lists(op, "query_lists", query_lists, o, queries);
  check(lists.size(2) == o.size(2) && lists.size(3) == o.size(3),
        "{}: the lists {} are not those of the slots {}", op, lists.shape(), o.shape());
  const TensorList r =
      apply_list(lists::CombineSlots{lists, queries, how}, {lists::flat(o), lists::flat(lse)});
  return {r[0], r[1]};
}

Tensor unique_lists(const Tensor& lists) {
  check(lists.rank() > 0 && lists.dtype() == DType::i32, "unique_lists: wants i32 lists, got {} {}",
        lists.dtype(), lists.shape());
  if (lists.size(-1) < 2) return lists;
  const Tensor sorted = sort(lists).values;
  const Tensor again = eq(slice(sorted, -1, 0, -1), slice(sorted, -1, 1));
  const Tensor first = masked_fill(slice(sorted, -1, 0, -1), again, -1);
  return concat({first, slice(sorted, -1, -1)}, -1);
}

}  // namespace tessera
