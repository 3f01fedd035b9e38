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

// Parses "cpu", "cuda" or "cuda:1"; throws Error for anything else, for "cuda" in a build without
// CUDA, and for a device that this machine does not have.
Device device_from_name(std::string_view text);

// Whether this build has CUDA kernels. Code that calls one stands under it, so that a build without
// them links:   if constexpr (kCuda) { if (x.device().is_cuda()) return softmax_cuda(x); }
#ifdef TESSERA_HAS_CUDA
constexpr bool kCuda = true;
#else
constexpr bool kCuda = false;
#endif

int cuda_device_count();          // 0 in a build without CUDA, or without a driver
void synchronize(Device device);  // waits for everything asked of the device

}  // namespace tessera

template <>
struct fmt::formatter<tessera::Device> : fmt::formatter<std::string> {
  auto format(tessera::Device device, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(tessera::to_string(device), context);
  }
};
