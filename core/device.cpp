#include "tessera/core/device.h"

#include <charconv>

namespace tessera {

std::string to_string(Device device) {
  return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index);
}

Device device_from_name(std::string_view text) {
  if (text == "cpu") return {};
  check(text == "cuda" || text.starts_with("cuda:"),
        "device: unknown name \"{}\"; use \"cpu\" or \"cuda:0\"", text);
  Device device{Device::Kind::cuda, 0};
  if (text.size() > 4) {
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data() + 5, end, device.index);
    check(error == std::errc() && stop == end && device.index >= 0,
          "device: \"{}\" has no valid index; use \"cuda:0\"", text);
  }
  check(kCuda, "device: \"{}\" asked for, but this build has no CUDA kernels; use \"cpu\"", text);
  check(cuda_device_count() > 0,
        "device: \"{}\" asked for, but there is no CUDA device (or no driver) here; use \"cpu\"",
        text);
  check(device.index < cuda_device_count(), "device: \"{}\" asked for, but the last one is cuda:{}",
        text, cuda_device_count() - 1);
  return device;
}

#ifndef TESSERA_HAS_CUDA
int cuda_device_count() {
  return 0;
}
void synchronize(Device) {}
#endif

}  // namespace tessera
