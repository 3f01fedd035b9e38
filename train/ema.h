// An exponential average of parameters: a ← decay · a + (1 − decay) · w after every update.
#pragma once

#include "tessera/train/optimizer.h"

namespace tessera {

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
};

}  // namespace tessera
