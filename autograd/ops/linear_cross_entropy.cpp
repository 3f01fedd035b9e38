#include <numeric>

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/cross_entropy.h"
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

// Rows whose logits exist at once: some 8 MiB of f32, but enough rows that adding to the gradient
// of the weight costs little beside the products.
int64_t rows_per_chunk(int64_t classes) {
  return std::clamp<int64_t>((int64_t{1} << 21) / std::max<int64_t>(1, classes), 256, 4096);
}

// Per chunk of rows: x = h Wᵀ, loss and gx = scale (softmax(x) − 1[target]) in place of x,
// gh = gx W, gW += gxᵀ h. Backward only multiplies by the gradient of the loss.
struct LinearCrossEntropy {
  static constexpr std::string_view name = "linear_cross_entropy";
  CrossEntropyOptions options;

  Tensor forward(Forward& f, const Tensor& hidden, const Tensor& weight,
                 const Tensor& targets) const {
    const int64_t rows = targets.numel();
    const int64_t chunk = std::min(rows, rows_per_chunk(weight.size(0)));
    const Options place{hidden.dtype(), hidden.device()};
    const Tensor h = views::reshape(hidden, {rows, weight.size(1)});
    const Tensor logits = empty({chunk, weight.size(0)}, place);
    const Tensor gh = f.needs(0) ? empty(h.shape(), place) : Tensor();
    Tensor gw;
    if (f.needs(1)) gw = rows > 0 ? empty(weight.shape(), place) : zeros(weight.shape(), place);
    const int64_t valid = detail::count_valid(targets, options.ignore_index);
    const double scale = options.reduction == Reduction::mean
                             ? 1 / static_cast<double>(std::max<int64_t>(1, valid))
                             : 1;
    double loss = 0;
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t end = std::min(rows, begin + chunk);
      const Tensor x = views::slice(logits, 0, 0, end - begin);
      const Tensor part = views::slice(h, 0, begin, end);
      kernels::gemm(x, part, views::transpose(weight, 0, 1));
      loss += losses(x, targets.data<int64_t>() + begin, f.recording(), scale);
      if (gh.defined()) kernels::gemm(views::slice(gh, 0, begin, end), x, weight);
      if (gw.defined()) {
        kernels::gemm(gw, views::transpose(x, 0, 1), part, 1, begin == 0 ? 0 : 1);
      }
    }
    f.save(gh.defined() ? views::reshape(gh, hidden.shape()) : gh, gw);
    return scalar(loss * scale, place);
  }

  void backward(Backward& b) const {
    const double g = b.grad().item();
    for (int i = 0; i < 2; ++i) {
      if (b.needs(i)) b.add(i, g == 1 ? b.saved(i) : b.saved(i) * g);
    }
  }

  Tensor definition(const TensorList& in) const {
    return cross_entropy(matmul(in[0], transpose(in[1], 0, 1)), in[2], options);
  }

 private:
  // The sum of the losses of some rows of logits, which become their gradients when asked for.
  double losses(const Tensor& logits, const int64_t* target, bool gradients, double scale) const {
    const int64_t rows = logits.size(0);
    const int64_t n = logits.size(1);
    const double epsilon = options.label_smoothing;
    const Tensor loss = zeros({rows}, {DType::f64, {}});
    visit_floating(name, logits.dtype(), [&]<class T>() {
      detail::parallel_rows(rows, n, [&](int64_t row) {
        T* x = logits.data<T>() + row * n;
        if (target[row] == options.ignore_index) {
          if (gradients) std::fill(x, x + n, T(0));
          return;
        }
        const double lse = detail::row_logsumexp(x, n);
        loss.data<double>()[row] = detail::row_cross_entropy(x, n, target[row], epsilon, lse);
        if (gradients) {
          detail::row_cross_entropy_gradient(x, x, n, target[row], epsilon, lse, scale);
        }
      });
    });
    const double* first = loss.data<double>();
    return std::accumulate(first, first + rows, 0.0);
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
