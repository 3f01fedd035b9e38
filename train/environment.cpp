#include "tessera/train/environment.h"

#include <filesystem>
#include <fstream>

#include "tessera/core/parallel.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

// What follows "KEY :" in a file of the system; "" when there is no such line.
std::string line_of(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

std::string gpu_name() {
  std::error_code none;
  for (const auto& entry : fs::directory_iterator("/proc/driver/nvidia/gpus", none)) {
    const std::string name = line_of(entry.path() / "information", "Model");
    if (!name.empty()) return name;
  }
  return "";
}

}  // namespace

Json environment(Device device) {
  Json json = {{"tessera", TESSERA_VERSION}};
  if (!std::string_view(TESSERA_COMMIT).empty()) json["commit"] = TESSERA_COMMIT;
  json["compiler"] = __VERSION__;
  json["processor"] = line_of("/proc/cpuinfo", "model name");
  json["threads"] = num_threads();
  json["device"] = to_string(device);
  if (device.is_cuda()) json["gpu"] = gpu_name();
  return json;
}

}  // namespace tessera
