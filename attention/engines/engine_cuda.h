// The count of score entries on CUDA devices: kernels add to it, nobody waits.
#pragma once

#include "tessera/core/device.h"

namespace tessera::engine {

// Where kernels on a device add the entries they computed.
unsigned long long* entry_counter(Device device);
// The sum over all devices; waits for them.
int64_t entries_on_devices();

}  // namespace tessera::engine
