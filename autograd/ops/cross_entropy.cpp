#include "tessera/autograd/ops/cross_entropy.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/cross_entropy_cuda.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/softmax_rows.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {

namespace detail {

Tensor reduced(const Tensor& losses, Reduction reduction, int64_t count) {
  if (reduction == Reduction::none) return losses;
  const Tensor total = sum(losses);
  if (reduction == Reduction::sum) return total;
  return total * (count > 0 ? 1 / static_cast<double>(count) : 0);
}

void check_cross_entropy(std::string_view op, const CrossEntropyOptions& options) {
  check(options.label_smoothing >= 0 && options.label_smoothing <= 1,
        "{}: label_smoothing must be in [0, 1], got {}", op, options.label_smoothing);
}

int64_t count_valid(const Tensor& targets, int64_t ignored) {
  const Tensor here = kernels::to_device(targets, {});
  const int64_t* t = here.data<int64_t>();
  return here.numel() - std::count(t, t + here.numel(), ignored);
}

}  // namespace detail

namespace {

// loss = logsumexp(x) − x[target], gx = g (softmax(x) − 1[target]).
struct CrossEntropy {
  static constexpr std::string_view name = "cross_entropy";
  CrossEntropyOptions options;

  Tensor forward(Forward& f, const Tensor& logits, const Tensor& targets) const {
    const Tensor dense = kernels::contiguous(logits);
    const Tensor lse = empty(targets.shape(), {DType::f64, logits.device()});
    const Tensor losses = empty(targets.shape(), {DType::f64, logits.device()});
    if constexpr (kCuda) {
      if (logits.device().is_cuda()) {
        detail::row_losses_cuda(losses, lse, dense, targets, options);
        const Tensor scale = detail::loss_scale_cuda(targets, options);
        f.save(lse, scale);
        return options.reduction == Reduction::none
                   ? kernels::cast(losses, logits.dtype())
                   : detail::scaled_sum_cuda(losses, scale, logits.dtype());
      }
    }
    const int64_t n = logits.size(-1);
    const int64_t* target = targets.data<int64_t>();
    visit_floating(name, logits.dtype(), [&]<class T>() {
      const T* x = dense.data<T>();
      detail::parallel_rows(targets.numel(), n, [&](int64_t row) {
        const bool ignored = target[row] == options.ignore_index;
        double& sum = lse.data<double>()[row];
        sum = ignored ? 0 : detail::row_logsumexp(x + row * n, n);
        losses.data<double>()[row] = ignored
                                         ? 0
                                         : detail::row_cross_entropy(x + row * n, n, target[row],
                                                                     options.label_smoothing, sum);
      });
    });
    f.save(lse);
    const int64_t count = detail::count_valid(targets, options.ignore_index);
    return detail::reduced(losses, options.reduction, count).to(logits.dtype());
  }

  void backward(Backward& b) const {
    const Tensor dense = kernels::contiguous(b.input(0));
    const Tensor targets = b.input(1);
    const Tensor lse = b.saved(0);
    const Tensor g = kernels::contiguous(kernels::cast(b.grad(), DType::f64));
    const Tensor gx = empty_like(dense);
    if constexpr (kCuda) {
      if (dense.device().is_cuda()) {
        detail::cross_entropy_backward_cuda(gx, dense, targets, lse, g, b.saved(1), options);
        b.add(0, gx);
        return;
      }
    }
    const int64_t n = dense.size(-1);
    const int64_t* target = targets.data<int64_t>();
    const bool each = options.reduction == Reduction::none;
    const int64_t valid = detail::count_valid(targets, options.ignore_index);
    const double scale = options.reduction == Reduction::mean
                             ? 1 / static_cast<double>(std::max<int64_t>(1, valid))
                             : 1;
    visit_floating(name, dense.dtype(), [&]<class T>() {
      detail::parallel_rows(targets.numel(), n, [&](int64_t row) {
        T* out = gx.data<T>() + row * n;
        if (target[row] == options.ignore_index) {
          std::fill(out, out + n, T(0));
          return;
        }
        detail::row_cross_entropy_gradient(dense.data<T>() + row * n, out, n, target[row],
                                           options.label_smoothing, lse.data<double>()[row],
                                           scale * g.data<double>()[each ? row : 0]);
      });
    });
    b.add(0, gx);
  }

  Tensor definition(const TensorList& in) const {
    const Tensor& targets = in[1];
    const Tensor valid = ne(targets, static_cast<double>(options.ignore_index));
    const Tensor safe = targets * valid.to(DType::i64);
    const Tensor counts = valid.to(in[0].dtype());
    const Tensor log_p = log_softmax(in[0], -1);
    Tensor loss = -squeeze(gather(log_p, -1, unsqueeze(safe, -1)), -1);
    if (options.label_smoothing > 0) {
      const double share = options.label_smoothing / static_cast<double>(in[0].size(-1));
      loss = loss * (1 - options.label_smoothing) - sum(log_p, {-1}) * share;
    }
    return detail::reduced(loss * counts, options.reduction,
                           detail::count_valid(targets, options.ignore_index));
  }
};

// q log p, and 0 where q is 0.
struct SoftTerm {
  static constexpr std::string_view name = "soft_cross_entropy";
  template <class T>
  TESSERA_HD T operator()(T q, T log_p) const {
    return math::select(q == T(0) && log_p < T(-1e30), T(0), q * log_p);
  }
};

OpSample sample(std::string label, const Tensor& logits, const Tensor& targets,
                const CrossEntropyOptions& options = {}) {
  return {
      std::move(label),
      {logits, targets},
      [options](const TensorList& x) { return TensorList{cross_entropy(x[0], x[1], options)}; },
      [options](const TensorList& x) { return TensorList{CrossEntropy{options}.definition(x)}; }};
}

std::vector<OpSample> cross_entropy_samples() {
  const Tensor logits = samples::normal({4, 5});
  const Tensor targets = samples::integers({4}, 0, 5);
  const Tensor some_ignored = samples::integers({4}, -1, 2);
  const Tensor all_ignored = samples::integers({4}, -1, 0);
  return {
      sample("mean", logits, targets),
      sample("sum", logits, targets, {.reduction = Reduction::sum}),
      sample("none", logits, targets, {.reduction = Reduction::none}),
      sample("some ignored", logits, some_ignored),
      sample("all ignored", logits, all_ignored),
      sample("label smoothing", logits, some_ignored, {.label_smoothing = 0.1}),
      sample("none, smoothed, ignoring 3", logits, targets,
             {.ignore_index = 3, .label_smoothing = 0.2, .reduction = Reduction::none}),
      sample("one row", samples::normal({5}), samples::integers({}, 1, 2)),
      sample("(2, 3, 4)", samples::normal({2, 3, 4}), samples::integers({2, 3}, 0, 4)),
      sample("strided", samples::strided(samples::normal({3, 4})), samples::integers({3}, 0, 4)),
      sample("one class", samples::normal({2, 1}), samples::integers({2}, 0, 1)),
      sample("no rows", samples::normal({0, 3}), samples::integers({0}, 0, 1))};
}

const RegisterOp row{{
    .name = "cross_entropy",
    .formula = "−log softmax(x)[target]",
    .source = "label smoothing: Szegedy et al. 2016",
    .samples = cross_entropy_samples,
    .wrong_calls = {[] {
                      cross_entropy(samples::normal({2, 3}), samples::integers({2}, 3, 4));
                    },
                    [] {
                      cross_entropy(samples::normal({2, 3}), samples::integers({2}, -2, -1));
                    },
                    [] {
                      cross_entropy(samples::normal({2, 3}), samples::integers({3}, 0, 3));
                    },
                    [] { cross_entropy(samples::normal({}), samples::integers({}, 0, 1)); },
                    [] {
                      cross_entropy(samples::normal({2, 3}), samples::normal({2}));
                    },
                    [] {
                      cross_entropy(samples::normal({2, 3}), samples::integers({2}, 0, 3),
                                    {.label_smoothing = 2});
                    }},
}};

const RegisterOp soft_row{{
    .name = "soft_cross_entropy",
    .formula = "−Σ q log softmax(x)",
    .source = "",
    .samples =
        [] {
          std::vector<OpSample> list;
          for (const Reduction r : {Reduction::mean, Reduction::sum, Reduction::none}) {
            for (const Shape& shape : {Shape{3}, Shape{2, 4}, Shape{0, 3}, Shape{2, 1}}) {
              list.push_back({to_string(shape),
                              {samples::normal(shape), samples::positive(shape, 1)},
                              [r](const TensorList& x) {
                                return TensorList{soft_cross_entropy(x[0], x[1], r)};
                              },
                              {}});
            }
          }
          return list;
        },
    .wrong_calls = {[] {
                      soft_cross_entropy(samples::normal({2, 3}), samples::normal({2}));
                    },
                    [] { soft_cross_entropy(samples::normal({}), samples::normal({})); }},
}};

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                     const CrossEntropyOptions& options) {
  detail::check_floating("cross_entropy", logits);
  detail::check_cross_entropy("cross_entropy", options);
  check(logits.rank() >= 1 && logits.rank() == targets.rank() + 1 &&
            std::equal(targets.shape().begin(), targets.shape().end(), logits.shape().begin()),
        "cross_entropy: logits (…, C) and targets (…) were expected, got {} and {}", logits.shape(),
        targets.shape());
  const Tensor ids = detail::checked_ids("cross_entropy", "target", targets, logits.size(-1),
                                         options.ignore_index);
  return apply(CrossEntropy{options}, logits, ids);
}

Tensor soft_cross_entropy(const Tensor& logits, const Tensor& q, Reduction reduction) {
  check(logits.rank() >= 1 && logits.shape() == q.shape(),
        "soft_cross_entropy: logits and targets must have one shape (…, C), got {} and {}",
        logits.shape(), q.shape());
  const auto [x, target] = detail::promoted("soft_cross_entropy", logits, q);
  const Tensor losses = -sum(pointwise(SoftTerm{}, target, log_softmax(x, -1)), {-1});
  return detail::reduced(losses, reduction, losses.numel());
}

}  // namespace tessera
