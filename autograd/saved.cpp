#include "tessera/autograd/leaf.h"
#include "tessera/autograd/tape.h"

namespace tessera {
namespace {

Tensor shallow(const Tensor& x) {
  return Tensor(x.storage(), x.shape(), x.strides(), x.offset(), x.dtype());
}

AutogradMeta& meta_of(const Tensor& x) {
  auto& meta = x.impl().autograd;
  if (!meta) meta = std::make_shared<AutogradMeta>();
  return *meta;
}

}  // namespace

Saved::Saved(const Tensor& x) {
  if (!x.defined()) return;
  data_ = shallow(x);
  version_ = x.version();
  const auto& meta = x.impl().autograd;
  if (!meta) return;
  if (meta->node) {
    node_ = meta->node;
    output_ = meta->output;
  } else if (meta->requires_grad) {
    leaf_ = meta;
  }
}

Saved Saved::output(const Tensor& y, int index) {
  Saved saved;
  saved.data_ = shallow(y);
  saved.version_ = y.version();
  saved.output_ = index;
  saved.own_output_ = true;
  return saved;
}

Tensor Saved::get(Node& self) const {
  if (!data_.defined()) return {};
  check(data_.version() == version_,
        "{}: a tensor of shape {} that backward needs was changed in place (version {}, saved at "
        "{}); clone it before the change",
        self.name(), data_.shape(), data_.version(), version_);
  if (own_output_) return with_history(data_, {self.shared_from_this(), output_});
  if (auto node = node_.lock()) return with_history(data_, {node, output_});
  Tensor result = shallow(data_);
  result.impl().autograd = leaf_;
  return result;
}

Edge gradient_edge(const Tensor& x) {
  const auto& meta = x.impl().autograd;
  if (!meta) return {};
  if (meta->node) return {meta->node, meta->output};
  if (!meta->requires_grad) return {};
  auto leaf = meta->leaf.lock();
  if (!leaf) {
    leaf = std::make_shared<LeafNode>(meta);
    meta->leaf = leaf;
  }
  return {leaf, 0};
}

Tensor with_history(const Tensor& x, const Edge& edge) {
  Tensor result = shallow(x);
  if (!edge.node) return result;
  if (auto* leaf = dynamic_cast<LeafNode*>(edge.node.get())) {
    result.impl().autograd = leaf->meta;
    return result;
  }
  AutogradMeta& meta = meta_of(result);
  meta.node = edge.node;
  meta.output = edge.output;
  return result;
}

// The gradient members of Tensor.

bool Tensor::requires_grad() const {
  const auto& meta = impl().autograd;
  return meta && (meta->requires_grad || meta->node);
}

Tensor& Tensor::set_requires_grad(bool value) {
  AutogradMeta& meta = meta_of(*this);
  check(meta.node == nullptr, "set_requires_grad: {} is a result, not a leaf; detach() it first",
        shape());
  check(!value || is_floating(dtype()), "set_requires_grad: a tensor of dtype {} has no gradient",
        dtype());
  meta.requires_grad = value;
  return *this;
}

Tensor Tensor::grad() const {
  const auto& meta = impl().autograd;
  return meta ? meta->grad : Tensor();
}

void Tensor::set_grad(const Tensor& grad) const {
  check(!grad.defined() || grad.shape() == shape(), "set_grad: {} does not fit the tensor {}",
        grad.defined() ? grad.shape() : Shape(), shape());
  meta_of(*this).grad = grad;
}

void Tensor::backward(const Tensor& grad_output, bool retain_graph) const {
  tessera::backward({*this}, grad_output.defined() ? TensorList{grad_output} : TensorList{},
                    {.create_graph = false, .retain_graph = retain_graph});
}

Tensor Tensor::detach() const {
  return shallow(*this);
}

}  // namespace tessera
