// Activation functions and gated units. All are twice differentiable pointwise functions; those of
// one tensor are known to configs by name (registry.h), beside "tanh", "sigmoid", "softplus" and
// "identity".
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

Tensor relu(const Tensor& x);                             // max(0, x); derivative 0 at 0
Tensor leaky_relu(const Tensor& x, double slope = 0.01);  // x > 0 ? x : slope x
Tensor elu(const Tensor& x, double alpha = 1);            // x > 0 ? x : α (exp x − 1)
Tensor selu(const Tensor& x);                             // λ elu(x, α), Klambauer et al. 2017
Tensor gelu(const Tensor& x);                             // x Φ(x), Hendrycks & Gimpel 2016
Tensor gelu_tanh(const Tensor& x);                        // GPT-2's approximation of gelu
Tensor gelu_tanh_gradient(const Tensor& grad, const Tensor& x);  // grad gelu_tanh'(x); no history
Tensor quick_gelu(const Tensor& x);                              // x sigmoid(1.702 x), CLIP's
Tensor silu(const Tensor& x);                                    // x sigmoid(x), also "swish"
Tensor mish(const Tensor& x);                                    // x tanh(softplus x), Misra 2019
Tensor softsign(const Tensor& x);                                // x / (1 + |x|)
Tensor hardswish(const Tensor& x);  // x clamp(x + 3, 0, 6) / 6, MobileNetV3
Tensor hardtanh(const Tensor& x, double low = -1, double high = 1);  // clamp(x, low, high)
Tensor relu_squared(const Tensor& x);         // max(0, x)², So et al. 2021; "relu2"
Tensor tanhshrink(const Tensor& x);           // x − tanh x
Tensor softcap(const Tensor& x, double cap);  // c tanh(x / c), for c > 0; Gemma 2
// 3u² − 2u³ for u = clamp(x / γ + ½, 0, 1): exactly 0 below −γ/2 and 1 above γ/2, once continuously
// differentiable, for γ > 0. Hazimeh et al. 2020, "The Tree Ensemble Layer".
Tensor smooth_step(const Tensor& x, double gamma);

// Gated linear units, Shazeer 2020, "GLU Variants Improve Transformer": act(gate) · up.
Tensor swiglu(const Tensor& gate, const Tensor& up);       // silu
Tensor geglu(const Tensor& gate, const Tensor& up);        // gelu
Tensor reglu(const Tensor& gate, const Tensor& up);        // relu
Tensor glu_sigmoid(const Tensor& gate, const Tensor& up);  // sigmoid, Dauphin et al. 2017

}  // namespace tessera
