#include "tessera/autograd/op.h"

namespace tessera::detail {
namespace {

// A second name for a tensor. Gradients asked for at the alias leave out what reaches the original
// by other ways.
struct Alias {
  static constexpr std::string_view name = "alias";
  Tensor forward(Forward&, const Tensor& x) const { return x; }
  void backward(Backward& b) const { b.add(0, b.grad()); }
};

}  // namespace

TensorList alias_inputs(Backward& b) {
  TensorList list = b.input_list();
  for (Tensor& x : list) {
    if (x.defined()) x = apply(Alias{}, x);
  }
  return list;
}

void check_devices(std::string_view op, const TensorList& inputs) {
  const Tensor* first = nullptr;
  for (const Tensor& x : inputs) {
    if (!x.defined()) continue;
    if (first == nullptr) first = &x;
    check(x.device() == first->device(), "{}: inputs on different devices: {} on {}, {} on {}", op,
          first->shape(), first->device(), x.shape(), x.device());
  }
}

bool wants_recording(const TensorList& inputs) {
  if (!grad_enabled()) return false;
  for (const Tensor& x : inputs) {
    if (x.defined() && x.requires_grad()) return true;
  }
  return false;
}

void connect(Node& node, const TensorList& inputs, bool keep_inputs) {
  node.edges.reserve(inputs.size());
  for (const Tensor& x : inputs) {
    node.edges.push_back(x.defined() ? gradient_edge(x) : Edge{});
    if (keep_inputs) node.inputs.emplace_back(x);
  }
}

void attach(const std::shared_ptr<Node>& node, TensorList& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    Tensor& y = outputs[i];
    node->outputs.push_back({y.shape(), y.dtype(), y.device()});
    if (is_floating(y.dtype())) y = with_history(y, {node, static_cast<int>(i)});
  }
}

void backward_by_definition(Backward& b, const TensorList& inputs, const TensorList& outputs) {
  TensorList wanted;
  std::vector<int> index;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!b.needs(static_cast<int>(i))) continue;
    wanted.push_back(inputs[i]);
    index.push_back(static_cast<int>(i));
  }
  TensorList used;
  TensorList grads;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!b.has_grad(static_cast<int>(i)) || !outputs[i].requires_grad()) continue;
    used.push_back(outputs[i]);
    grads.push_back(b.grad(static_cast<int>(i)));
  }
  const TensorList result = grad(used, wanted, grads, {.create_graph = true});
  for (size_t i = 0; i < index.size(); ++i) b.add(index[i], result[i]);
}

}  // namespace tessera::detail
