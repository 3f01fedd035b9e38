// ConfigError: a mistake in a config. Its message is one line that begins with the place (a file
// position or a path such as `train.steps`), prints the value seen and ends with the fix.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace tessera {

class ConfigError : public std::runtime_error {
 public:
  // Control characters of the message (keys and values may hold any) are written as escapes.
  explicit ConfigError(const std::string& message);
};

// config_fail("train.steps", "{} is below the minimum {}", -3, 1). An empty path reads "config".
template <class... Args>
[[noreturn]] void config_fail(const std::string& path, fmt::format_string<Args...> format,
                              Args&&... args) {
  throw ConfigError((path.empty() ? "config" : path) + ": " +
                    fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tessera
