// Optimizers. Configs name them: "optimizer": {"type": "adamw", "lr": 1e-3}.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/config/registry.h"
#include "tessera/train/parameter.h"
#include "tessera/train/update_rules.h"

namespace tessera {

class ParameterTable;

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

  // The same on CUDA in two parts. prepare() counts the step and gives what the host knows of it;
  // it is to be in the step state (see update_rules.h) when the device comes to what launch() asks
  // for: the gradient's norm, clipping, the update. launch() reads nothing else and can be recorded
  // into a graph.
  StepScalars prepare(double factor);
  void launch(const Tensor& state);

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
  const TensorList& slots(size_t index) const { return slots_[index].tensors; }
  ParameterTable& table();  // of parameters on CUDA

  // What update steps_ depends on besides gradients.
  virtual StepScalars scalars(double lr) const = 0;
  struct Piece {
    size_t parameter;
    int64_t begin;
    float* value;       // at `begin`
    const float* grad;  // at `begin`
    int64_t count;
    bool decay;
  };
  // On the CPU: called for pieces of parameters in parallel.
  virtual void update(const Piece& piece, const StepScalars& scalars, float scale) const = 0;
  // Optimizers that look at whole matrices override this instead of update().
  virtual void update_all(double lr, double gradient_scale);
  virtual void update_on_device(const Tensor& state) = 0;

  int64_t steps_ = 0;

 private:
  struct Slot {
    std::string name;
    TensorList tensors;
  };
  void step_on_device(double factor, double gradient_scale);

  std::vector<Parameter> parameters_;
  std::vector<Slot> slots_;
  std::shared_ptr<ParameterTable> table_;
};

// sqrt(Σ g²) over all gradients, summed in a fixed order in f64. Waits for a device.
double gradient_norm(const std::vector<Parameter>& parameters);

}  // namespace tessera
