// Where a tensor lives: "cpu" or "cuda:N".
#pragma once

#include <string>
#include <string_view>

#include "tessera/core/error.h"

namespace tessera {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::cpu; }
  bool is_cuda() const { return kind == Kind::cuda; }
  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);

// Parses "cpu", "cuda" or "cuda:1"; throws Error for anything else, and for "cuda" in a build
// without CUDA.
Device device_from_name(std::string_view text);

}  // namespace tessera

template <>
struct fmt::formatter<tessera::Device> : fmt::formatter<std::string> {
  auto format(tessera::Device device, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(tessera::to_string(device), context);
  }
};
