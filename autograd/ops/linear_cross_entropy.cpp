#include <bit>
#include <numeric>

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/cross_entropy_cuda.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/softmax_rows.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

// Rows whose logits exist at once: some 8 MiB of f32, or half a GiB on a device, but enough rows
// that adding to the gradient of the weight costs little beside the products.
int64_t rows_per_chunk(int64_t classes, const Options& place) {
  classes = std::max<int64_t>(1, classes);
  if (!place.device.is_cuda()) {
    return std::clamp<int64_t>((int64_t{1} << 21) / classes, 256, 4096);
  }
  const auto rows = static_cast<uint64_t>((int64_t{1} << 29) / (classes * size_of(place.dtype)));
  return std::clamp<int64_t>(static_cast<int64_t>(std::bit_floor(rows)), 1024, 32768);
}

// Per chunk of rows: x = h Wᵀ, loss and gx = scale (softmax(x) − 1[target]) in place of x,
// gh = gx W, gW += gxᵀ h. Backward only multiplies by the gradient of the loss.
struct LinearCrossEntropy {
  static constexpr std::string_view name = "linear_cross_entropy";
  CrossEntropyOptions options;

  Tensor forward(Forward& f, const Tensor& hidden, const Tensor& weight,
                 const Tensor& targets) const {
    const int64_t rows = targets.numel();
    const Options place{hidden.dtype(), hidden.device()};
    const int64_t chunk = std::min(rows, rows_per_chunk(weight.size(0), place));
    const Tensor h = views::reshape(hidden, {rows, weight.size(1)});
    const Tensor ids = views::reshape(targets, {rows});
    const Tensor logits = empty({chunk, weight.size(0)}, place);
    const Tensor losses = empty({rows}, {DType::f64, place.device});
    const Tensor scale = scale_of(targets);
    const Tensor gh = f.needs(0) ? empty(h.shape(), place) : Tensor();
    Tensor gw;
    if (f.needs(1)) gw = rows > 0 ? empty(weight.shape(), place) : zeros(weight.shape(), place);
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t end = std::min(rows, begin + chunk);
      const Tensor x = views::slice(logits, 0, 0, end - begin);
      const Tensor part = views::slice(h, 0, begin, end);
      kernels::gemm(x, part, views::transpose(weight, 0, 1));
      row_losses(views::slice(losses, 0, begin, end), x, views::slice(ids, 0, begin, end), scale,
                 f.recording());
      if (gh.defined()) kernels::gemm(views::slice(gh, 0, begin, end), x, weight);
      if (gw.defined()) {
        kernels::gemm(gw, views::transpose(x, 0, 1), part, 1, begin == 0 ? 0 : 1);
      }
    }
    f.save(gh.defined() ? views::reshape(gh, hidden.shape()) : gh, gw);
    return scaled_sum(losses, scale, place);
  }

  void backward(Backward& b) const {
    const Tensor g = b.grad();
    for (int i = 0; i < 2; ++i) {
      if (b.needs(i)) b.add(i, scaled(b.saved(i), g, b.keeps_graph()));
    }
  }

  Tensor definition(const TensorList& in) const {
    return cross_entropy(matmul(in[0], transpose(in[1], 0, 1)), in[2], options);
  }

 private:
  // What the sum of the losses is multiplied by, () in f64.
  Tensor scale_of(const Tensor& targets) const {
    if constexpr (kCuda) {
      if (targets.device().is_cuda()) return detail::loss_scale_cuda(targets, options);
    }
    const int64_t valid = detail::count_valid(targets, options.ignore_index);
    const bool mean = options.reduction == Reduction::mean;
    return scalar(mean ? 1 / static_cast<double>(std::max<int64_t>(1, valid)) : 1,
                  {DType::f64, {}});
  }

  // The losses of some rows of logits, which become their gradients when asked for.
  void row_losses(const Tensor& losses, const Tensor& logits, const Tensor& targets,
                  const Tensor& scale, bool gradients) const {
    if constexpr (kCuda) {
      if (logits.device().is_cuda()) {
        if (gradients) {
          detail::row_losses_to_gradients_cuda(losses, logits, targets, options, scale);
        } else {
          detail::row_losses_cuda(losses, {}, logits, targets, options);
        }
        return;
      }
    }
    const int64_t n = logits.size(1);
    const double epsilon = options.label_smoothing;
    const int64_t* target = targets.data<int64_t>();
    visit_floating(name, logits.dtype(), [&]<class T>() {
      detail::parallel_rows(logits.size(0), n, [&](int64_t row) {
        T* x = logits.data<T>() + row * n;
        double& loss = losses.data<double>()[row];
        if (target[row] == options.ignore_index) {
          loss = 0;
          if (gradients) std::fill(x, x + n, T(0));
          return;
        }
        const double lse = detail::row_logsumexp(x, n);
        loss = detail::row_cross_entropy(x, n, target[row], epsilon, lse);
        if (gradients) {
          detail::row_cross_entropy_gradient(x, x, n, target[row], epsilon, lse,
                                             scale.data<double>()[0]);
        }
      });
    });
  }

  static Tensor scaled_sum(const Tensor& losses, const Tensor& scale, const Options& place) {
    if constexpr (kCuda) {
      if (place.device.is_cuda()) return detail::scaled_sum_cuda(losses, scale, place.dtype);
    }
    const double* first = losses.data<double>();
    return scalar(std::accumulate(first, first + losses.numel(), 0.0) * scale.data<double>()[0],
                  place);
  }

  // x g for a g of one element. On a device nobody looks at g: x is overwritten unless it is still
  // needed, by a kernel that ends at once when g is 1.
  static Tensor scaled(const Tensor& x, const Tensor& g, [[maybe_unused]] bool keep) {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        if (keep) return x * g;
        detail::scale_cuda(x, kernels::cast(g, x.dtype()));
        return x;
      }
    }
    const double factor = g.item();
    return factor == 1 ? x : x * factor;
  }
};

OpSample sample(std::string label, const Shape& hidden, const Shape& weight, const Tensor& targets,
                const CrossEntropyOptions& options = {}) {
  return {std::move(label),
          {samples::normal(hidden), samples::normal(weight, 1), targets},
          [options](const TensorList& x) {
            return TensorList{linear_cross_entropy(x[0], x[1], x[2], options)};
          },
          [options](const TensorList& x) {
            return TensorList{LinearCrossEntropy{options}.definition(x)};
          }};
}

const RegisterOp row{{
    .name = "linear_cross_entropy",
    .formula = "−log softmax(h Wᵀ)[target] by chunks of rows",
    .source = "",
    .samples =
        [] {
          const Tensor targets = samples::integers({4}, -1, 5);
          std::vector<OpSample> list = {
              sample("mean", {4, 3}, {5, 3}, targets),
              sample("sum, smoothed", {4, 3}, {5, 3}, targets,
                     {.label_smoothing = 0.1, .reduction = Reduction::sum}),
              sample("(2, 3, 2)", {2, 3, 2}, {4, 2}, samples::integers({2, 3}, 0, 4)),
              sample("one", {1, 1}, {1, 1}, samples::integers({1}, 0, 1)),
              sample("no rows", {0, 3}, {5, 3}, samples::integers({0}, 0, 1)),
              sample("all ignored", {2, 3}, {5, 3}, samples::integers({2}, -1, 0))};
          list.push_back({"strided, scaled",
                          {samples::strided(samples::normal({4, 3})),
                           samples::strided(samples::normal({5, 3}, 1)), targets},
                          [](const TensorList& x) {
                            return TensorList{linear_cross_entropy(x[0], x[1], x[2]) * 3};
                          },
                          {}});
          return list;
        },
    .wrong_calls = {[] {
                      linear_cross_entropy(samples::normal({2, 3}), samples::normal({5, 3}),
                                           samples::integers({2}, 5, 6));
                    },
                    [] {
                      linear_cross_entropy(samples::normal({2, 3}), samples::normal({5, 4}),
                                           samples::integers({2}, 0, 5));
                    },
                    [] {
                      linear_cross_entropy(samples::normal({2, 3}), samples::normal({5, 3}),
                                           samples::integers({3}, 0, 5));
                    },
                    [] {
                      linear_cross_entropy(samples::normal({2, 3}), samples::normal({5, 3}),
                                           samples::integers({2}, 0, 5),
                                           {.reduction = Reduction::none});
                    }},
}};

}  // namespace

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            const CrossEntropyOptions& options) {
  constexpr std::string_view op = "linear_cross_entropy";
  detail::check_cross_entropy(op, options);
  check(options.reduction != Reduction::none,
        "{}: no losses of single rows; use cross_entropy(linear(hidden, weight), targets)", op);
  check(hidden.rank() >= 1 && weight.rank() == 2 && hidden.size(-1) == weight.size(1) &&
            hidden.rank() == targets.rank() + 1 &&
            std::equal(targets.shape().begin(), targets.shape().end(), hidden.shape().begin()),
        "{}: hidden (…, d), weight (V, d) and targets (…) were expected, got {}, {} and {}", op,
        hidden.shape(), weight.shape(), targets.shape());
  const Tensor ids =
      detail::checked_ids(op, "target", targets, weight.size(0), options.ignore_index);
  const auto [h, w] = detail::promoted(op, hidden, weight);
  return apply(LinearCrossEntropy{options}, h, w, ids);
}

}  // namespace tessera
