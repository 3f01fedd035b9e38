#include "tessera/core/error.h"

namespace tessera {

void raise(const std::string& message) {
  throw Error(message);
}

}  // namespace tessera
