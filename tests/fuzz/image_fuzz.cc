// Any bytes are an image or an Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tessera/core/error.h"
#include "tessera/data/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    tessera::decode_image(bytes, "input");
  } catch (const tessera::Error&) {
  }
  return 0;
}
