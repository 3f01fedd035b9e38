#include "tessera/train/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace tessera {

std::string duration_text(double seconds) {
  const auto total = static_cast<int64_t>(std::max(0.0, std::round(seconds)));
  const int64_t hours = total / 3600;
  const int64_t minutes = total / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
  return fmt::format("{}:{:02}", minutes, total % 60);
}

std::string count_text(double count) {
  const std::string digits = fmt::format("{:.0f}", count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

Progress::Progress(int64_t first_step, int64_t steps)
    : terminal_(isatty(STDERR_FILENO) != 0),
      first_(first_step),
      steps_(steps),
      start_(Clock::now()),
      shown_(start_ - std::chrono::hours(1)) {}

void Progress::step(int64_t step, double loss, double lr, double units_per_second,
                    const std::string& unit) {
  const auto now = Clock::now();
  const double pause = std::chrono::duration<double>(now - shown_).count();
  if (step < steps_ && pause < (terminal_ ? 0.2 : 5.0)) return;
  shown_ = now;
  const double spent = std::chrono::duration<double>(now - start_).count();
  const auto done = static_cast<double>(std::max<int64_t>(1, step - first_));
  const std::string line =
      fmt::format("step {}/{}  loss {:.4f}  lr {:.2e}  {} {}/s  {} left", step, steps_, loss, lr,
                  count_text(units_per_second), unit,
                  duration_text(spent / done * static_cast<double>(steps_ - step)));
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
    open_ = true;
  } else {
    fmt::print(stderr, "{}\n", line);
  }
}

void Progress::note(const std::string& text) {
  fmt::print(stderr, "{}{}\n", open_ ? "\r\033[K" : "", text);
  open_ = false;
}

void Progress::finish() {
  if (open_) fmt::print(stderr, "\n");
  open_ = false;
}

}  // namespace tessera
