// How an op is written: one plain struct with its parameters, a forward and a backward.
//
//   struct Softmax {                                  // y = exp(x) / Σ exp(x) along dim
//     static constexpr std::string_view name = "softmax";
//     int64_t dim;
//     Tensor forward(Forward& f, const Tensor& x) const { …; f.save_output(y); return y; }
//     void backward(Backward& b) const {              // gx = y (gy − Σ gy y)
//       const Tensor y = b.saved(0);
//       b.add(0, y * (b.grad() - sum(b.grad() * y, {dim}, true)));
//     }
//   };
//   Tensor softmax(const Tensor& x, int64_t dim) { return apply(Softmax{dim}, x); }
//
// forward runs without recording and may use raw kernels. backward written with differentiable ops
// gives second derivatives for free; one that calls kernels must not do so while b.recording().
// A fused op may instead carry its `definition`, the same function composed of plain ops:
//
//     Tensor definition(const TensorList& inputs) const;   // or TensorList
//
// Then its inputs are kept (b.input(i)), backward is only called when not recording, and second
// derivatives go through the definition.
#pragma once

#include <concepts>
#include <type_traits>

#include "tessera/autograd/profile.h"
#include "tessera/autograd/tape.h"

namespace tessera {

// What an op's forward sees.
class Forward {
 public:
  explicit Forward(Node* node) : node_(node) {}

  // False when nothing is recorded: nothing needs saving then (save() already does nothing).
  bool recording() const { return node_ != nullptr; }
  // Whether a gradient for input i will be asked for.
  bool needs(int i) const {
    return node_ != nullptr && node_->edges[static_cast<size_t>(i)].node != nullptr;
  }
  // Keeps inputs, intermediate results or other tensors: b.saved(0), b.saved(1), … in this order.
  template <class... Ts>
  void save(const Ts&... tensors) {
    if (node_ != nullptr) (node_->saved.emplace_back(tensors), ...);
  }
  // Keeps a result of this op (its history would otherwise be a cycle).
  void save_output(const Tensor& y, int index = 0) {
    if (node_ != nullptr) node_->saved.push_back(Saved::output(y, index));
  }

 private:
  Node* node_;
};

namespace detail {

template <class Op>
concept HasDefinition = requires(const Op& op, const TensorList& x) {
  op.definition(x);
};

TensorList alias_inputs(Backward& b);
// Gradients of `outputs` for those inputs that want them, recorded, through plain ops.
void backward_by_definition(Backward& b, const TensorList& inputs, const TensorList& outputs);

inline TensorList as_list(Tensor x) {
  return {std::move(x)};
}
inline TensorList as_list(TensorList x) {
  return x;
}

template <class Op>
class OpNode final : public Node {
 public:
  explicit OpNode(const Op& op) : op_(op) {}
  std::string_view name() const override { return op_.name; }
  void backward(Backward& b) override {
    if constexpr (HasDefinition<Op>) {
      if (b.recording()) {
        const TensorList list = alias_inputs(b);
        backward_by_definition(b, list, as_list(op_.definition(list)));
        return;
      }
    }
    op_.backward(b);
  }

 private:
  Op op_;
};

// All inputs must lie on one device; the error begins with the op's name.
void check_devices(std::string_view op, const TensorList& inputs);
// False when no input requires a gradient or recording is off.
bool wants_recording(const TensorList& inputs);
void connect(Node& node, const TensorList& inputs, bool keep_inputs);
void attach(const std::shared_ptr<Node>& node, TensorList& outputs);

template <class Op, class Run>
TensorList record(const Op& op, const TensorList& inputs, const Run& run) {
  if constexpr (kCuda) check_devices(op.name, inputs);
  const ProfileTimer timer(op.name);
  std::shared_ptr<Node> node;
  if (wants_recording(inputs)) {
    node = std::make_shared<OpNode<Op>>(op);
    connect(*node, inputs, HasDefinition<Op>);
  }
  Forward f(node.get());
  TensorList outputs;
  {
    NoGrad off;
    outputs = as_list(run(f));
  }
  if (node) attach(node, outputs);
  return outputs;
}

}  // namespace detail

// Runs op.forward on the inputs and records it. Returns a Tensor or, when forward returns a
// TensorList, a TensorList. Outputs of integer dtype carry no history. An undefined input is an
// absent optional one.
template <class Op, std::same_as<Tensor>... In>
auto apply(const Op& op, const In&... inputs) {
  TensorList outputs = detail::record(op, TensorList{inputs...},
                                      [&](Forward& f) { return op.forward(f, inputs...); });
  using Result = decltype(op.forward(std::declval<Forward&>(), inputs...));
  if constexpr (std::is_same_v<Result, Tensor>) {
    return Tensor(std::move(outputs[0]));
  } else {
    return outputs;
  }
}

// The same for ops on a list of inputs: forward(Forward&, const TensorList&).
template <class Op>
auto apply_list(const Op& op, const TensorList& inputs) {
  TensorList outputs =
      detail::record(op, inputs, [&](Forward& f) { return op.forward(f, inputs); });
  using Result = decltype(op.forward(std::declval<Forward&>(), inputs));
  if constexpr (std::is_same_v<Result, Tensor>) {
    return Tensor(std::move(outputs[0]));
  } else {
    return outputs;
  }
}

}  // namespace tessera
