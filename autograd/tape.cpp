#include "tessera/autograd/tape.h"

#include <atomic>
#include <map>
#include <queue>
#include <unordered_map>

#include "tessera/autograd/leaf.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/profile.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

thread_local bool recording_enabled = true;
std::atomic<uint64_t> next_sequence{1};

bool exclusively_owned(const Tensor& x) {
  return x.is_unshared() && x.is_contiguous();
}

// sum += grad; the first arrival is kept as it is.
void accumulate(Tensor& sum, const Tensor& grad, bool recording) {
  if (!sum.defined()) {
    sum = grad;
  } else if (!recording && exclusively_owned(sum)) {
    kernels::add_in_place(sum, grad);
  } else {
    sum = add(sum, grad);
  }
}

// The same tensor may be several inputs of one op; only the first takes over its sum.
bool first_use(const Node& node, size_t i) {
  for (size_t j = 0; j < i; ++j) {
    if (node.edges[j].node == node.edges[i].node && node.edges[j].output == node.edges[i].output) {
      return false;
    }
  }
  return true;
}

// One walk over the tape.
class Walk {
 public:
  Walk(GradOptions options, bool into_leaves) : options_(options), into_leaves_(into_leaves) {}

  void seed(const Tensor& output, const Tensor& grad_output) {
    const Edge edge = gradient_edge(output);
    check(edge.node != nullptr,
          "backward: the output {} does not depend on any tensor that requires a gradient",
          output.shape());
    check(grad_output.defined() || output.numel() == 1,
          "backward: an output of shape {} needs a grad_output; only one element gets 1",
          output.shape());
    const Tensor grad = grad_output.defined() ? grad_output : ones_like(output);
    check(grad.shape() == output.shape(), "backward: grad_output {} does not fit the output {}",
          grad.shape(), output.shape());
    accumulate(slot(edge), grad, options_.create_graph);
  }

  void capture(const Tensor& input, Tensor* result) {
    const Edge edge = gradient_edge(input);
    check(edge.node != nullptr, "grad: an input of shape {} does not require a gradient",
          input.shape());
    captured_[{edge.node.get(), edge.output}].push_back(result);
    keep_.push_back(edge.node);
    oldest_ = std::min(oldest_, edge.node->sequence);
  }

  void run() {
    GradMode mode(options_.create_graph);
    while (!queue_.empty()) {
      const std::shared_ptr<Node> node = queue_.top().second;
      queue_.pop();
      auto entry = pending_.extract(node.get());
      std::vector<Tensor>& arrived = entry.mapped();
      deliver(*node, arrived);
      if (auto* leaf = dynamic_cast<LeafNode*>(node.get())) {
        if (into_leaves_) add_to_leaf(*leaf->meta, arrived[0]);
      } else if (into_leaves_ || node->sequence > oldest_) {
        visit(*node, arrived);
      }
    }
  }

 private:
  Tensor& slot(const Edge& edge) {
    auto [entry, fresh] = pending_.try_emplace(edge.node.get());
    if (fresh) {
      entry->second.resize(std::max<size_t>(1, edge.node->outputs.size()));
      queue_.emplace(edge.node->sequence, edge.node);
    }
    return entry->second[static_cast<size_t>(edge.output)];
  }

  void deliver(Node& node, const std::vector<Tensor>& arrived) {
    for (auto& [output, hook] : node.hooks) {
      const Tensor& grad = arrived[static_cast<size_t>(output)];
      if (grad.defined()) hook(grad);
    }
    for (size_t i = 0; i < arrived.size() && !captured_.empty(); ++i) {
      auto found = captured_.find({&node, static_cast<int>(i)});
      if (found == captured_.end()) continue;
      for (Tensor* result : found->second) *result = arrived[i];
    }
  }

  void add_to_leaf(AutogradMeta& meta, Tensor& grad) {
    for (const GradHook& hook : meta.hooks) hook(grad);
    if (meta.grad.defined()) {
      accumulate(meta.grad, grad, options_.create_graph);
    } else if (options_.create_graph || exclusively_owned(grad)) {
      meta.grad = std::move(grad);
    } else {
      meta.grad = kernels::clone(grad);
    }
  }

  void visit(Node& node, std::vector<Tensor>& arrived) {
    check(!node.released,
          "backward: the history of {} was freed by an earlier backward; pass retain_graph there",
          node.name());
    // What has arrived so far for each input moves into the sinks, so that kernels can add to it.
    std::vector<Tensor> sinks(node.edges.size());
    for (size_t i = 0; i < sinks.size(); ++i) {
      const Edge& edge = node.edges[i];
      const auto found = pending_.find(edge.node.get());
      if (found == pending_.end() || !first_use(node, i)) continue;
      sinks[i] = std::move(found->second[static_cast<size_t>(edge.output)]);
    }
    const bool keeps_graph = options_.retain_graph || options_.create_graph;
    Backward b(node, arrived, sinks, options_.create_graph, keeps_graph);
    {
      const ProfileTimer timer(node.name(), true);
      node.backward(b);
    }
    arrived.clear();
    for (size_t i = 0; i < sinks.size(); ++i) {
      if (!sinks[i].defined()) continue;
      const Tensor total = std::exchange(sinks[i], {});
      accumulate(slot(node.edges[i]), total, options_.create_graph);
    }
    if (!keeps_graph) node.release();
  }

  GradOptions options_;
  bool into_leaves_;
  uint64_t oldest_ = ~uint64_t{0};
  std::unordered_map<Node*, std::vector<Tensor>> pending_;
  std::map<std::pair<Node*, int>, std::vector<Tensor*>> captured_;
  std::vector<std::shared_ptr<Node>> keep_;
  std::priority_queue<std::pair<uint64_t, std::shared_ptr<Node>>> queue_;
};

void seed_all(Walk& walk, const TensorList& outputs, const TensorList& grad_outputs) {
  check(grad_outputs.empty() || grad_outputs.size() == outputs.size(),
        "backward: {} outputs, but {} grad_outputs", outputs.size(), grad_outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    walk.seed(outputs[i], grad_outputs.empty() ? Tensor() : grad_outputs[i]);
  }
}

}  // namespace

Node::Node() : sequence(next_sequence.fetch_add(1, std::memory_order_relaxed)) {}

// Long chains are taken apart in a loop: recursion through destructors would overflow the stack.
Node::~Node() {
  std::vector<Edge> chain = std::move(edges);
  while (!chain.empty()) {
    const std::shared_ptr<Node> node = std::move(chain.back().node);
    chain.pop_back();
    if (node && node.use_count() == 1) {
      for (Edge& edge : node->edges) chain.push_back(std::move(edge));
      node->edges.clear();
    }
  }
}

void Node::release() {
  saved.clear();
  inputs.clear();
  released = true;
}

const Tensor& Backward::grad(int i) {
  Tensor& g = arrived_[static_cast<size_t>(i)];
  if (!g.defined()) {
    const Node::Output& output = node_.outputs[static_cast<size_t>(i)];
    g = zeros(output.shape, {output.dtype, output.device});
  }
  return g;
}

TensorList Backward::input_list() const {
  TensorList list;
  for (const Saved& saved : node_.inputs) list.push_back(saved.get(node_));
  return list;
}

void Backward::add(int input, const Tensor& grad) {
  if (!needs(input) || !grad.defined()) return;
  accumulate(sinks_[static_cast<size_t>(input)], grad, recording_);
}

Tensor Backward::zeroed(int input, const Shape& shape, DType dtype) {
  Tensor& sink = sinks_[static_cast<size_t>(input)];
  check(!recording_, "{}: zeroed() under create_graph", node_.name());
  if (!sink.defined()) {
    sink = zeros(shape, {dtype, node_.outputs[0].device});
  } else if (!exclusively_owned(sink)) {
    sink = kernels::clone(sink);
  }
  return sink;
}

Tensor Backward::accumulator(int input) const {
  const Tensor& sink = sinks_[static_cast<size_t>(input)];
  if (recording_ || !sink.defined() || !exclusively_owned(sink)) return {};
  return sink;
}

bool grad_enabled() {
  return recording_enabled;
}
GradMode::GradMode(bool enabled) : saved_(recording_enabled) {
  recording_enabled = enabled;
}
GradMode::~GradMode() {
  recording_enabled = saved_;
}

TensorList grad(const TensorList& outputs, const TensorList& inputs, const TensorList& grad_outputs,
                GradOptions options) {
  TensorList results(inputs.size());
  Walk walk(options, false);
  for (size_t i = 0; i < inputs.size(); ++i) walk.capture(inputs[i], &results[i]);
  seed_all(walk, outputs, grad_outputs);
  walk.run();
  return results;
}

void backward(const TensorList& outputs, const TensorList& grad_outputs, GradOptions options) {
  Walk walk(options, true);
  seed_all(walk, outputs, grad_outputs);
  walk.run();
}

void register_hook(const Tensor& x, GradHook hook) {
  const Edge edge = gradient_edge(x);
  check(edge.node != nullptr, "register_hook: the tensor {} requires no gradient", x.shape());
  if (auto* leaf = dynamic_cast<LeafNode*>(edge.node.get())) {
    leaf->meta->hooks.push_back(std::move(hook));
  } else {
    edge.node->hooks.emplace_back(edge.output, std::move(hook));
  }
}

}  // namespace tessera
