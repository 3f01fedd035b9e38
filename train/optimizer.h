// Optimizers. Configs name them: "optimizer": {"type": "adamw", "lr": 1e-3}.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/config/registry.h"
#include "tessera/nn/module.h"

namespace tessera {

struct Parameter {
  std::string name;
  Tensor value;       // dense f32; its grad() is the gradient, a missing one counts as zero
  bool decay = true;  // weight decay applies
};

// All parameters of a module. Weight decay leaves out tensors of rank below 2 and those whose name
// ends with one of `no_decay` (class tokens, position tables).
std::vector<Parameter> parameters_of(Module& module, const std::vector<std::string>& no_decay = {});

class Optimizer {
 public:
  static constexpr const char* kKind = "optimizer";
  using Build = std::unique_ptr<Optimizer>(const std::vector<Parameter>&);

  virtual ~Optimizer() = default;

  // One update with learning rate lr() · factor; gradients are multiplied by `gradient_scale` on
  // the way (clipping, accumulation). The result does not depend on the number of threads.
  void step(double factor, double gradient_scale = 1);
  virtual double lr() const = 0;
  int64_t steps() const { return steps_; }

  // Everything besides the parameters that the next step depends on.
  NamedTensors state() const;
  void load_state(const NamedTensors& state);

 protected:
  explicit Optimizer(const std::vector<Parameter>& parameters) : parameters_(parameters) {}

  // A zero tensor beside every parameter: moments and the like.
  void add_slot(const std::string& name);
  void add_slot(const std::string& name, const std::function<Shape(const Parameter&)>& shape);
  float* slot(size_t index, size_t parameter) const {
    return slots_[index].tensors[parameter].data<float>();
  }
  const std::vector<Parameter>& parameters() const { return parameters_; }

  // Called once per step, then update() for pieces of parameters in parallel.
  virtual void begin_step(double lr, double gradient_scale) = 0;
  struct Piece {
    size_t parameter;
    int64_t begin;
    float* value;       // at `begin`
    const float* grad;  // at `begin`
    int64_t count;
    bool decay;
  };
  virtual void update(const Piece& piece) const = 0;
  // Optimizers that look at whole matrices override this instead of update().
  virtual void update_all();

  int64_t steps_ = 0;

 private:
  struct Slot {
    std::string name;
    TensorList tensors;
  };
  std::vector<Parameter> parameters_;
  std::vector<Slot> slots_;
};

// sqrt(Σ g²) over all gradients, summed in a fixed order in f64.
double gradient_norm(const std::vector<Parameter>& parameters);

}  // namespace tessera
