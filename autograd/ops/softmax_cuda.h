// softmax and log_softmax along the last dimension on a device.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// Dense tensors in, dense tensors out: one read of each, one write.
Tensor softmax_cuda(const Tensor& x, bool log);
Tensor softmax_backward_cuda(const Tensor& y, const Tensor& g, bool log);  // log: x in place of y

}  // namespace tessera
