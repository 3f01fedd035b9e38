// Any bytes are an IDX file or an Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tessera/core/error.h"
#include "tessera/data/idx.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    tessera::parse_idx(bytes, "input");
  } catch (const tessera::Error&) {
  }
  return 0;
}
