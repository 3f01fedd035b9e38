// What a run writes about itself: metrics.jsonl and TensorBoard events.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "tessera/train/tensorboard.h"

namespace tessera {

class RunLog {
 public:
  // Continues after `step`: later lines of an interrupted run are dropped.
  RunLog(const std::filesystem::path& run, int64_t step);
  // One line {"step": …, "name": value, …}, and each value as a TensorBoard scalar.
  void write(int64_t step, const std::map<std::string, double>& values);
  void flush();

 private:
  std::ofstream file_;
  TensorBoardWriter events_;
};

}  // namespace tessera
