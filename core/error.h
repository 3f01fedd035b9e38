// Errors: one exception type and one function that raises it.
//
//   check(a.size(1) == b.size(0), "matmul: inner sizes differ: {} x {}", a.shape(), b.shape());
//
// A message begins with the name of the op or the place (a config path, a file and byte offset),
// prints the values it saw and, where there is a fix, ends with it. The program turns an Error into
// one line on stderr and exit code 2.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace tessera {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

[[noreturn]] void raise(const std::string& message);

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  raise(fmt::format(format, std::forward<Args>(args)...));
}

// Throws Error with the formatted message unless `condition` holds. Arguments are formatted only
// on failure.
template <class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    raise(fmt::format(format, std::forward<Args>(args)...));
  }
}

}  // namespace tessera
