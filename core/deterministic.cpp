#include "tessera/core/deterministic.h"

#include <atomic>

namespace tessera {
namespace {

std::atomic<bool> same_bits = true;

}  // namespace

void set_deterministic(bool on) {
  same_bits = on;
}
bool deterministic() {
  return same_bits;
}

}  // namespace tessera
