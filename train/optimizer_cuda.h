// The update of all parameters on a device in a fixed number of launches, with nothing read by the
// host: sums of squares, their total with the clipping factor, the update. A StepState in the
// device's memory (a u8 tensor) carries what passes between them.
#pragma once

#include <memory>

#include "tessera/train/parameter.h"
#include "tessera/train/update_rules.h"

namespace tessera {

// Where the weights, values, gradients and slots of each parameter lie, in the device's memory.
class ParameterTable {
 public:
  // Slots that have a parameter's shape; at most two.
  ParameterTable(const std::vector<Parameter>& parameters, const std::vector<TensorList>& slots);
  ~ParameterTable();

  // Takes note of where the gradients lie now. While a graph is recorded, the note becomes part of
  // it.
  void refresh(const std::vector<Parameter>& parameters);
  // state.norm, .scale and .finite from the gradients and .loss, .share, .max_norm.
  void norm(const Tensor& state) const;
  // Nothing happens where the state is not finite.
  template <class Rule>
  void update(const Rule& rule, const Tensor& state) const;

  struct Entry;
  struct Impl;  // see parameter_table.h
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// A step state on a device with these values (waits for nothing, but not for use in a recording).
Tensor make_step_state(Device device, const StepState& values);
StepState read_step_state(const Tensor& state);  // waits for the device

}  // namespace tessera
