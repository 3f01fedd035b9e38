// Any bytes are a safetensors file or an Error.
#include <cstddef>
#include <cstdint>

#include "tessera/core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file =
        tessera::SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "input");
    for (const auto& name : file.names()) file.get(name);
  } catch (const tessera::Error&) {
  }
  return 0;
}
