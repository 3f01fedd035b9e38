// What a run was made with: environment.json of its folder.
#pragma once

#include "tessera/config/json.h"
#include "tessera/core/device.h"

namespace tessera {

// Version, commit (of the sources when the build was configured), compiler, processor, threads,
// device and its name.
Json environment(Device device);

}  // namespace tessera
