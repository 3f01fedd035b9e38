// The node that ends a leaf's history: what arrives there is added to the leaf's grad().
#pragma once

#include "tessera/autograd/tape.h"

namespace tessera {

class LeafNode final : public Node {
 public:
  explicit LeafNode(std::shared_ptr<AutogradMeta> meta_of_leaf) : meta(std::move(meta_of_leaf)) {
    sequence = 0;
  }
  std::string_view name() const override { return "leaf"; }
  void backward(Backward&) override {}

  std::shared_ptr<AutogradMeta> meta;
};

}  // namespace tessera
