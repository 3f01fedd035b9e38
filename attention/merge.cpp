#include "tessera/attention/merge.h"

#include <cmath>
#include <limits>

#include "tessera/attention/merge_cuda.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

// The rows of a (B, H, N, D) tensor, or the entries of a (B, H, N) one.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  Rows() = default;
  explicit Rows(const Tensor& x)
      : data(x.data<T>()), batch(x.stride(0)), head(x.stride(1)), row(x.stride(2)) {}
  T* at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

template <class T>
std::vector<Rows<T>> rows_of(const TensorList& list) {
  return {list.begin(), list.end()};
}

// fn(b, h, i) for every row, in parallel.
template <class Fn>
void for_each_row(const Tensor& output, const Fn& fn) {
  constexpr int64_t kPiece = 64;
  const int64_t heads = output.size(1), n = output.size(2);
  const int64_t pieces = (n + kPiece - 1) / kPiece;
  parallel_for(output.size(0) * heads * pieces, output.numel(), [&](int64_t t) {
    const int64_t begin = t % pieces * kPiece, head = t / pieces;
    for (int64_t i = begin; i < std::min(n, begin + kPiece); ++i) fn(head / heads, head % heads, i);
  });
}

template <class T>
void merge_rows(const TensorList& outputs, const TensorList& logsumexps, const AttentionResult& r) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  const auto o = rows_of<T>(outputs), lse = rows_of<T>(logsumexps);
  const Rows<T> out(r.output), total(r.logsumexp);
  const int64_t width = r.output.size(3);
  for_each_row(r.output, [&](int64_t b, int64_t h, int64_t i) {
    T top = none, sum = 0;
    for (const Rows<T>& l : lse) top = std::max(top, *l.at(b, h, i));
    T* to = out.at(b, h, i);
    std::fill(to, to + width, T{0});
    if (top > none) {
      for (const Rows<T>& l : lse) sum += math::exp(*l.at(b, h, i) - top);
    }
    for (size_t p = 0; top > none && p < o.size(); ++p) {
      const T w = math::exp(*lse[p].at(b, h, i) - top) / sum;
      const T* from = o[p].at(b, h, i);
      if (w == 0) continue;
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) to[d] += w * from[d];
    }
    *total.at(b, h, i) = top > none ? top + math::log(sum) : none;
  });
}

template <class T>
void merge_rows_backward(const TensorList& outputs, const TensorList& logsumexps,
                         const AttentionResult& r, const Tensor& grad_output,
                         const Tensor& grad_logsumexp, const MergeGradients& g) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  const auto o = rows_of<T>(outputs), lse = rows_of<T>(logsumexps);
  const auto grad_o = rows_of<T>(g.outputs), grad_lse = rows_of<T>(g.logsumexps);
  const Rows<T> out(r.output), total(r.logsumexp), grad(grad_output);
  const Rows<T> grad_total = grad_logsumexp.defined() ? Rows<T>(grad_logsumexp) : Rows<T>();
  const int64_t width = r.output.size(3);
  for_each_row(r.output, [&](int64_t b, int64_t h, int64_t i) {
    const T all = *total.at(b, h, i);
    const T down = grad_total.data != nullptr ? *grad_total.at(b, h, i) : T{0};
    const T* go = grad.at(b, h, i);
    const T* merged = out.at(b, h, i);
    for (size_t p = 0; p < o.size(); ++p) {
      const T own = *lse[p].at(b, h, i);
      const T w = own > none ? math::exp(own - all) : T{0};
      const T* from = o[p].at(b, h, i);
      T* to = grad_o[p].at(b, h, i);
      T dot = 0;
      if (w != 0) {
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < width; ++d) dot += go[d] * (from[d] - merged[d]);
      }
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) to[d] = w * go[d];
      *grad_lse[p].at(b, h, i) = w != 0 ? w * (down + dot) : T{0};
    }
  });
}

// Inputs: outputs O_1 … O_P, then logsumexps L_1 … L_P.
struct Merge {
  static constexpr std::string_view name = "merge";

  TensorList forward(Forward& f, const TensorList& in) const {
    const auto [outputs, logsumexps] = parts_of(in);
    const AttentionResult r = compute(outputs, logsumexps);
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const auto [outputs, logsumexps] = parts_of(in);
    const Tensor all = stack(logsumexps, -1);
    const Tensor weights = softmax(all, -1);
    const DType wide = weights.dtype();
    Tensor sum;
    for (size_t p = 0; p < outputs.size(); ++p) {
      const Tensor w = slice(weights, -1, static_cast<int64_t>(p), static_cast<int64_t>(p) + 1);
      const Tensor part = outputs[p].to(wide) * w;
      sum = sum.defined() ? sum + part : part;
    }
    return {sum.to(outputs[0].dtype()), logsumexp(all, {-1})};
  }

  void backward(Backward& b) const {
    const auto [outputs, logsumexps] = parts_of(b.input_list());
    const Tensor grad_output = engine::with_dense_rows(b.grad(0));
    const Tensor grad_lse = b.has_grad(1) ? b.grad(1) : Tensor();
    const MergeGradients g =
        gradients(outputs, logsumexps, {b.saved(0), b.saved(1)}, grad_output, grad_lse);
    const int count = static_cast<int>(outputs.size());
    for (int p = 0; p < count; ++p) {
      if (b.needs(p)) b.add(p, g.outputs[static_cast<size_t>(p)]);
      if (b.needs(count + p)) b.add(count + p, g.logsumexps[static_cast<size_t>(p)]);
    }
  }

 private:
  struct Parts {
    TensorList outputs, logsumexps;
  };
  static Parts parts_of(const TensorList& in) {
    const auto half = in.begin() + static_cast<ptrdiff_t>(in.size() / 2);
    return {{in.begin(), half}, {half, in.end()}};
  }

  static AttentionResult compute(TensorList outputs, const TensorList& logsumexps) {
    for (Tensor& x : outputs) x = engine::with_dense_rows(x);
    const Tensor &o = outputs[0], &lse = logsumexps[0];
    if constexpr (kCuda) {
      if (o.device().is_cuda()) return merge_cuda(outputs, logsumexps);
    }
    const AttentionResult r{engine::empty_heads(o.shape(), o.dtype(), o.device()),
                            empty(lse.shape(), {lse.dtype(), lse.device()})};
    visit_floating(name, o.dtype(), [&]<class T>() { merge_rows<T>(outputs, logsumexps, r); });
    return r;
  }

  static MergeGradients gradients(TensorList outputs, const TensorList& logsumexps,
                                  const AttentionResult& merged, const Tensor& grad_output,
                                  const Tensor& grad_lse) {
    for (Tensor& x : outputs) x = engine::with_dense_rows(x);
    if constexpr (kCuda) {
      if (grad_output.device().is_cuda()) {
        return merge_backward_cuda(outputs, logsumexps, merged, grad_output, grad_lse);
      }
    }
    MergeGradients g;
    for (size_t p = 0; p < outputs.size(); ++p) {
      g.outputs.push_back(
          engine::empty_heads(outputs[p].shape(), outputs[p].dtype(), outputs[p].device()));
      g.logsumexps.push_back(empty_like(logsumexps[p]));
    }
    visit_floating(name, grad_output.dtype(), [&]<class T>() {
      merge_rows_backward<T>(outputs, logsumexps, merged, grad_output, grad_lse, g);
    });
    return g;
  }
};

// (…, D) seen as (B, H, N, D): missing dimensions are 1, surplus ones belong to the batch.
Shape as_heads(const Shape& shape, int64_t inner) {
  Shape result;
  const int64_t rank = shape.rank(), lead = rank - inner;
  int64_t batch = 1;
  for (int64_t d = 0; d + 2 < lead; ++d) batch *= shape[d];
  result.push_back(batch);
  result.push_back(lead >= 2 ? shape[lead - 2] : 1);
  for (int64_t d = std::max<int64_t>(0, lead - 1); d < rank; ++d) result.push_back(shape[d]);
  return result;
}

void check_parts(const std::vector<AttentionResult>& parts) {
  check(!parts.empty(), "merge: no parts were given");
  const Tensor& first = parts[0].output;
  for (const AttentionResult& part : parts) {
    const Tensor &o = part.output, &lse = part.logsumexp;
    check(o.rank() >= 2 && lse.rank() == o.rank() - 1,
          "merge: wants outputs (…, D) with logsumexps (…), got {} with {}", o.shape(),
          lse.shape());
    Shape rows = o.shape();
    rows.pop_back();
    check(lse.shape() == rows && o.shape() == first.shape(),
          "merge: parts differ in shape: {} with {} beside {}", o.shape(), lse.shape(),
          first.shape());
    check(o.dtype() == first.dtype() && o.device() == first.device(),
          "merge: parts differ: {} on {} beside {} on {}", o.dtype(), o.device(), first.dtype(),
          first.device());
    check(lse.dtype() == o.dtype() || (is_half(o.dtype()) && lse.dtype() == DType::f32),
          "merge: a logsumexp in {} does not go with an output in {}", lse.dtype(), o.dtype());
  }
}

AttentionResult merge_few(std::span<const AttentionResult> parts) {
  if (parts.size() == 1) return parts[0];
  const Shape shape = parts[0].output.shape(), rows = parts[0].logsumexp.shape();
  TensorList in;
  for (const AttentionResult& part : parts) in.push_back(reshape(part.output, as_heads(shape, 1)));
  for (const AttentionResult& part : parts) {
    const Tensor& lse = part.logsumexp;
    in.push_back(reshape(is_half(lse.dtype()) ? lse.to(DType::f32) : lse, as_heads(rows, 0)));
  }
  const TensorList r = apply_list(Merge{}, in);
  return {reshape(r[0], shape), reshape(r[1], rows)};
}

OpSample merge_sample(const char* label, const Shape& shape, int count) {
  TensorList inputs;
  Shape rows = shape;
  rows.pop_back();
  for (uint64_t p = 0; p < static_cast<uint64_t>(count); ++p) {
    const Tensor o = samples::normal(shape, 2 * p);
    inputs.push_back(p == 0 ? samples::strided(o) : o);
  }
  for (uint64_t p = 0; p < static_cast<uint64_t>(count); ++p) {
    inputs.push_back(samples::normal(rows, 2 * p + 1));
  }
  auto parts_of = [](const TensorList& in) {
    std::vector<AttentionResult> parts;
    for (size_t p = 0; p < in.size() / 2; ++p) parts.push_back({in[p], in[in.size() / 2 + p]});
    return parts;
  };
  return {label,
          inputs,
          [parts_of](const TensorList& in) {
            const AttentionResult r = merge(parts_of(in));
            return TensorList{r.output, r.logsumexp};
          },
          {}};
}

const RegisterOp row{{
    .name = "merge",
    .formula = "L = log Σ exp(L_p), O = Σ exp(L_p − L) O_p",
    .source = "Milakov & Gimelshein 2018; Dao et al. 2022",
    .samples =
        [] {
          return std::vector<OpSample>{merge_sample("two parts", {2, 2, 3, 4}, 2),
                                       merge_sample("three parts", {1, 3, 2, 3}, 3),
                                       merge_sample("more than one kernel takes", {2, 3, 2}, 9),
                                       merge_sample("five dimensions", {2, 1, 2, 2, 3}, 2),
                                       merge_sample("rows", {4, 8}, 2),
                                       merge_sample("no rows", {1, 2, 0, 3}, 2)};
        },
    .wrong_calls = {[] { merge({}); },
                    [] {
                      merge({samples::normal({1, 2, 3, 4}), samples::normal({1, 2, 3})},
                            {samples::normal({1, 2, 2, 4}), samples::normal({1, 2, 2})});
                    },
                    [] {
                      merge({samples::normal({1, 2, 3, 4}), samples::normal({1, 2, 4})},
                            {samples::normal({1, 2, 3, 4}), samples::normal({1, 2, 4})});
                    }},
}};

}  // namespace

AttentionResult merge(const std::vector<AttentionResult>& parts) {
  check_parts(parts);
  std::vector<AttentionResult> rest = parts;
  while (rest.size() > 1) {
    std::vector<AttentionResult> fewer;
    const std::span<const AttentionResult> all = rest;
    for (size_t p = 0; p < all.size(); p += kMostMerged) {
      fewer.push_back(merge_few(all.subspan(p, std::min<size_t>(kMostMerged, all.size() - p))));
    }
    rest = std::move(fewer);
  }
  return rest[0];
}

AttentionResult merge(const AttentionResult& a, const AttentionResult& b) {
  return merge(std::vector<AttentionResult>{a, b});
}

}  // namespace tessera
