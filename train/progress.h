// The progress of a run on stderr: one line that is rewritten on a terminal, plain lines otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace tessera {

class Progress {
 public:
  Progress(int64_t first_step, int64_t steps);

  // "step 120/2000  loss 2.1034  lr 9.8e-04  52,100 tokens/s  2:10 left"
  void step(int64_t step, double loss, double lr, double units_per_second, const std::string& unit);
  // A line that stays: evaluations, checkpoints, notices.
  void note(const std::string& text);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool open_ = false;  // a rewritable line is on screen
  int64_t first_;
  int64_t steps_;
  Clock::time_point start_;
  Clock::time_point shown_;
};

std::string duration_text(double seconds);  // "0:07", "2:10", "1:02:33"
std::string count_text(double count);       // "52,100"

}  // namespace tessera
