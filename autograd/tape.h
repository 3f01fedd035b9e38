// The tape: which op made a tensor, and the walk back over it.
//
// A Node is one recorded op. It knows the nodes of its inputs (edges) and how to turn the gradients
// of its outputs into those of its inputs. backward() visits nodes from the newest to the oldest,
// so every consumer of a tensor has spoken before its producer is asked.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

class Node;
class Backward;

struct Edge {
  std::shared_ptr<Node> node;  // null: no gradient wanted
  int output = 0;
};

using GradHook = std::function<void(const Tensor& grad)>;

struct AutogradMeta {
  bool requires_grad = false;   // of a leaf
  Tensor grad;                  // of a leaf
  std::shared_ptr<Node> node;   // the op that made this tensor; null for a leaf
  int output = 0;               // which of its outputs
  std::weak_ptr<Node> leaf;     // the accumulating node of a leaf, while a graph uses it
  std::vector<GradHook> hooks;  // of a leaf
};

// A tensor kept for backward: without its history (that would tie nodes into long chains), but with
// enough to give it back, and with the version it had.
class Saved {
 public:
  explicit Saved(const Tensor& x);
  static Saved output(const Tensor& y, int index);  // an output of the node that saves it
  Tensor get(Node& self) const;  // throws when the storage was changed in place meanwhile

 private:
  Saved() = default;
  Tensor data_;
  uint32_t version_ = 0;
  std::weak_ptr<Node> node_;
  int output_ = 0;
  bool own_output_ = false;
  std::shared_ptr<AutogradMeta> leaf_;
};

class Node : public std::enable_shared_from_this<Node> {
 public:
  struct Output {
    Shape shape;
    DType dtype = DType::f32;
    Device device;
  };

  Node();
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual std::string_view name() const = 0;
  virtual void backward(Backward& b) = 0;

  uint64_t sequence = 0;  // grows with every node; leaves have 0
  std::vector<Edge> edges;
  std::vector<Output> outputs;
  std::vector<Saved> saved;   // what the op chose to keep
  std::vector<Saved> inputs;  // all inputs, for ops that carry a definition
  std::vector<std::pair<int, GradHook>> hooks;
  bool released = false;
  void release();
};

// What an op's backward sees: the gradients that arrived, what forward saved, and where to put the
// gradients of the inputs.
class Backward {
 public:
  Backward(Node& node, std::vector<Tensor>& arrived, std::vector<Tensor>& sinks, bool recording,
           bool keeps_graph)
      : node_(node),
        arrived_(arrived),
        sinks_(sinks),
        recording_(recording),
        keeps_graph_(keeps_graph) {}

  // Gradient of output i; zeros when none arrived.
  const Tensor& grad(int i = 0);
  bool has_grad(int i) const { return arrived_[static_cast<size_t>(i)].defined(); }
  Tensor saved(int i) const { return node_.saved[static_cast<size_t>(i)].get(node_); }
  Tensor input(int i) const { return node_.inputs[static_cast<size_t>(i)].get(node_); }
  TensorList input_list() const;
  bool needs(int input) const { return node_.edges[static_cast<size_t>(input)].node != nullptr; }
  // True under create_graph: backward must then consist of differentiable ops.
  bool recording() const { return recording_; }
  // False when what was saved dies with this call: kernels may then overwrite saved tensors that
  // the op made itself.
  bool keeps_graph() const { return keeps_graph_; }

  // Adds to the gradient of an input; `grad` must have the input's shape.
  void add(int input, const Tensor& grad);
  // A dense buffer of the input's shape to add into, zero-filled when nothing has arrived yet.
  // For kernels that write part of a gradient (slice, index); not while recording.
  Tensor zeroed(int input, const Shape& shape, DType dtype);
  // The gradient accumulated so far if a kernel may add to it in place (dense, owned by nobody
  // else, not recording); undefined otherwise. GEMMs use it with beta = 1.
  Tensor accumulator(int input) const;

 private:
  Node& node_;
  std::vector<Tensor>& arrived_;
  std::vector<Tensor>& sinks_;
  bool recording_;
  bool keeps_graph_;
};

// Recording of ops is on by default and off inside a NoGrad scope, per thread.
bool grad_enabled();
class GradMode {
 public:
  explicit GradMode(bool enabled);
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool saved_;
};
class NoGrad : public GradMode {
 public:
  NoGrad() : GradMode(false) {}
};

// The edge that leads to a tensor's history; a null node when it needs no gradient.
Edge gradient_edge(const Tensor& x);
// A new handle on the same storage whose history is `edge`.
Tensor with_history(const Tensor& x, const Edge& edge);

// Gradients of sum(outputs · grad_outputs) with respect to `inputs`, without touching grad().
// Missing grad_outputs are ones (the outputs must then have one element). With create_graph the
// result can be differentiated again. An input that no output depends on gives an undefined tensor.
struct GradOptions {
  bool create_graph = false;
  bool retain_graph = false;  // implied by create_graph
};
TensorList grad(const TensorList& outputs, const TensorList& inputs,
                const TensorList& grad_outputs = {}, GradOptions options = {});

// Accumulates gradients into grad() of every leaf below `outputs`.
void backward(const TensorList& outputs, const TensorList& grad_outputs = {},
              GradOptions options = {});

// Calls `hook` with the complete gradient of x each time a backward pass reaches it.
void register_hook(const Tensor& x, GradHook hook);

}  // namespace tessera
