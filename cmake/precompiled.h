// What most files include. Nothing of the upper floors: the lower ones must not see it. No json:
// reading its precompiled form takes files that do not use it longer than it saves the others.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/tensor.h"
