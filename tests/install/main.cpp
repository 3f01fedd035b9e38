#include "tessera/core/create.h"

int main() {
  const tessera::Tensor x = tessera::tensor({1, 2, 3, 4, 5, 6}, {2, 3});
  fmt::print("a tensor of shape {} and dtype {}\n", x.shape(), x.dtype());
}
