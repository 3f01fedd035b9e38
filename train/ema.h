// An exponential average of parameters: a ← decay · a + (1 − decay) · w after every update.
#pragma once

#include <memory>

#include "tessera/train/parameter.h"

namespace tessera {

class EmaTable;

class Ema {
 public:
  Ema(const std::vector<Parameter>& parameters, double decay);
  void update();
  // Exchanges the averages with the parameters; a second call puts them back.
  void swap();
  NamedTensors state() const;
  void load_state(const NamedTensors& state);

 private:
  std::vector<Parameter> parameters_;
  TensorList averages_;
  double decay_;
  std::shared_ptr<EmaTable> table_;  // of averages on CUDA
};

}  // namespace tessera
