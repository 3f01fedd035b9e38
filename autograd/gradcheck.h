// Numerical checks of gradients, in f64 by central differences.
#pragma once

#include <string>

#include "tessera/autograd/registry.h"

namespace tessera {

struct GradcheckOptions {
  double step = 1e-6;         // relative to max(1, |x|)
  double tolerance = 1e-6;    // on |analytic − numeric| / max(1, |analytic|, |numeric|)
  int64_t max_entries = 200;  // per input: larger ones are checked at so many random entries
  uint64_t seed = 1;          // of the random projection of the outputs, and of those entries
};

struct GradcheckResult {
  bool ok = true;
  double worst = 0;     // the largest relative error seen
  int64_t entries = 0;  // how many were compared
  std::string message;  // empty when ok; else "input 0 [1, 2]: analytic 3.1, numeric 2.9, …"
};

// Compares the gradient of a random projection Σ_i ⟨w_i, f_i(inputs)⟩ with central differences, for
// every f64 input. Entries at which the function is not differentiable (the two one-sided
// differences disagree while a smaller step agrees with neither: ties, kinks) are moved away from
// by a small deterministic perturbation of the inputs; the message says so when none helps. A
// function that throws lets the Error through.
GradcheckResult gradcheck(const TensorFunction& f, const TensorList& inputs,
                          const GradcheckOptions& options = {});

// The same for the gradient itself: checks second derivatives.
GradcheckResult gradgradcheck(const TensorFunction& f, const TensorList& inputs,
                              const GradcheckOptions& options = {});

// All samples of one registered op, to the order it promises: values against its definition, first
// and second derivatives. The message begins with the sample's label.
GradcheckResult check_op(const OpInfo& op, const GradcheckOptions& options = {});

}  // namespace tessera
