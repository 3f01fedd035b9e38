// What an optimizer updates.
#pragma once

#include <string>
#include <vector>

#include "tessera/nn/module.h"

namespace tessera {

struct Parameter {
  std::string name;
  Tensor value;        // dense; its grad() is the gradient, a missing one counts as zero
  bool decay = true;   // weight decay applies
  Tensor master = {};  // the f32 weights of which a half `value` is the rounded copy

  // The f32 weights that updates, averages and checkpoints are about.
  const Tensor& weights() const { return master.defined() ? master : value; }
};

// All parameters of a module. Weight decay leaves out tensors of rank below 2 and those whose name
// ends with one of `no_decay` (class tokens, position tables).
std::vector<Parameter> parameters_of(Module& module, const std::vector<std::string>& no_decay = {});

// Moves an f32 module to a device and, where `dtype` is a half type, rounds all its parameters and
// buffers to it (those of norms too); the f32 weights stay as masters.
std::vector<Parameter> place(Module& module, Device device, DType dtype,
                             const std::vector<std::string>& no_decay = {});

// The state of a module with the masters in place of rounded values, and the way back.
NamedTensors full_state(Module& module, const std::vector<Parameter>& parameters);
void load_full_state(Module& module, const std::vector<Parameter>& parameters,
                     const NamedTensors& state);

// value ← master, rounded, where there is one.
void round_masters(const std::vector<Parameter>& parameters);

}  // namespace tessera
