#include "tessera/autograd/custom.h"

#include "tessera/autograd/op.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

thread_local bool second_run = false;

struct StraightThrough {
  static constexpr std::string_view name = "straight_through";
  Tensor forward(Forward&, const Tensor& hard, const Tensor&) const { return hard; }
  void backward(Backward& b) const { b.add(1, b.grad()); }
};

struct RecomputeScope {
  bool saved = second_run;
  RecomputeScope() { second_run = true; }
  ~RecomputeScope() { second_run = saved; }
};

// The segment as one op. Its inputs are kept; everything inside is made again.
struct Checkpoint {
  static constexpr std::string_view name = "checkpoint";
  Segment fn;
  RandomScope::State random;

  TensorList forward(Forward& f, const TensorList& inputs) const {
    for (const Tensor& x : inputs) f.save(x);
    return fn(inputs);
  }

  void backward(Backward& b) const {
    check(!b.recording(), "checkpoint: no second derivatives through a recomputed segment");
    TensorList inputs;
    for (int i = 0; i < count; ++i) {
      Tensor x = b.saved(i).detach();
      if (b.needs(i)) x.set_requires_grad();
      inputs.push_back(x);
    }
    GradMode on(true);
    RecomputeScope again;
    RandomScope scope(random);
    TensorList outputs;
    TensorList grads;
    const TensorList all = fn(inputs);
    for (size_t i = 0; i < all.size(); ++i) {
      if (!all[i].requires_grad() || !b.has_grad(static_cast<int>(i))) continue;
      outputs.push_back(all[i]);
      grads.push_back(b.grad(static_cast<int>(i)));
    }
    if (outputs.empty()) return;
    tessera::backward(outputs, grads);
    for (int i = 0; i < count; ++i) b.add(i, inputs[static_cast<size_t>(i)].grad());
  }

  int count = 0;
};

}  // namespace

Tensor stop_gradient(const Tensor& x) {
  return x.detach();
}

Tensor straight_through(const Tensor& hard, const Tensor& soft) {
  check(hard.shape() == soft.shape(), "straight_through: shapes differ: {} and {}", hard.shape(),
        soft.shape());
  return apply(StraightThrough{}, hard.detach(), soft);
}

TensorList checkpoint(const Segment& fn, const TensorList& inputs) {
  if (!grad_enabled()) return fn(inputs);
  // Parameters captured by fn may want gradients even when no input does: a marker input that
  // requires one keeps the segment on the tape.
  TensorList marked = inputs;
  const Device device = inputs.empty() ? Device{} : inputs[0].device();
  marked.push_back(Tensor(std::make_shared<Storage>(4, device), {1}, {1}, 0, DType::f32));
  marked.back().set_requires_grad();
  const Segment without_marker = [fn](const TensorList& all) {
    return fn(TensorList(all.begin(), all.end() - 1));
  };
  return apply_list(
      Checkpoint{without_marker, RandomScope::state(), static_cast<int>(marked.size())}, marked);
}

bool recomputing() {
  return second_run;
}

}  // namespace tessera
