// The list of ops: every op registers itself in its own file with a name, a formula, a source and
// samples on which it is checked. From one row follow the gradient check, the comparison of a fused
// op with its definition, the wrong calls it must refuse, and its line in `tessera list op`.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

using TensorFunction = std::function<TensorList(const TensorList& inputs)>;

struct OpSample {
  std::string label;          // what is special about it: "broadcast", "size 0", "strided"
  TensorList inputs;          // f64 ones are differentiated, others are passed as they are
  TensorFunction run;         // the op on the inputs
  TensorFunction definition;  // optional: the same function composed of plain ops
};

struct Interval {
  double low = 0;
  double high = 0;
};

struct OpInfo {
  std::string name;
  std::string formula;
  std::string source;  // paper or convention; may be empty
  int orders = 2;      // how many times it is differentiable: 0, 1 or 2
  std::function<std::vector<OpSample>()> samples;
  std::vector<std::function<void()>> wrong_calls;  // each must throw an Error that begins with name
  // Why it reads values on the host, if it does: then it cannot be recorded into a CUDA graph.
  std::string reads_values = {};
  // Of a pointwise function of one tensor: where it is defined. There it is swept over extreme f32
  // values, at which neither it nor its derivative may be NaN.
  std::optional<Interval> domain = {};
};

class OpRegistry {
 public:
  static OpRegistry& instance();
  void add(OpInfo info);  // a name registered twice is an error
  const OpInfo* find(const std::string& name) const;
  std::vector<const OpInfo*> all() const;  // sorted by name

 private:
  std::vector<OpInfo> rows_;
};

// Registers rows when the library is loaded, in the op's .cpp:  const RegisterOp row{{.name = …}};
struct RegisterOp {
  RegisterOp(OpInfo info) { OpRegistry::instance().add(std::move(info)); }
};

// Helpers for samples. Values are drawn from Philox by (label, position), so they never change.
namespace samples {

Tensor normal(const Shape& shape, uint64_t salt = 0);                            // f64
Tensor uniform(const Shape& shape, double low, double high, uint64_t salt = 0);  // f64
Tensor positive(const Shape& shape, uint64_t salt = 0);                          // in [0.5, 2)
Tensor integers(const Shape& shape, int64_t low, int64_t high,
                uint64_t salt = 0);  // i64 in [low, high)
// The same values as x with other strides: a transposed copy seen through a transpose, or every
// second element of a larger tensor.
Tensor strided(const Tensor& x);

// Samples of a function of one tensor over the shapes every op must take: (), (1), (3), (2, 3),
// strided (3, 4), (0), (2, 0, 3).
std::vector<OpSample> unary(const std::function<Tensor(const Tensor&)>& f, double low = -2,
                            double high = 2);
// The same for two tensors: equal shapes, broadcasts both ways, strided, size 1 and size 0.
std::vector<OpSample> binary(const std::function<Tensor(const Tensor&, const Tensor&)>& f,
                             double low = -2, double high = 2);

}  // namespace samples

// The names under which configs know unary pointwise functions ("gelu", "relu", …).
using Activation = Tensor (*)(const Tensor&);
Activation activation(const std::string& name);  // throws with the nearest name
std::vector<std::string> activation_names();
struct RegisterActivation {
  RegisterActivation(const std::string& name, Activation function);
};

}  // namespace tessera
