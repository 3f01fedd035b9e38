// Where the time of a step goes, op by op.
//
//   ProfileScope profile;
//   … forward, backward …
//   for (const ProfileRow& row : profile.rows()) …
//
// Every op run by apply() and every backward of the tape is timed; an op inside another op's
// forward counts for itself alone. Without an open scope this costs one comparison per op.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/device.h"

namespace tessera {

struct ProfileRow {
  std::string name;  // "linear" or, for the way back, "linear backward"
  int64_t calls = 0;
  double seconds = 0;
};

// Collects while it lives. One at a time, used on one thread. For a CUDA device the time is that
// of its stream, between a pair of events per op.
class ProfileScope {
 public:
  explicit ProfileScope(Device device = {});
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;
  std::vector<ProfileRow> rows() const;  // the most expensive first; waits for the device
  // The innermost op that an exception has left; empty when there was none.
  std::string failed() const;
};

// Times the rest of its block under a name when a scope is open. Also for parts of a step that are
// no ops: "optimizer", "data".
class ProfileTimer {
 public:
  explicit ProfileTimer(std::string_view name, bool backward = false);
  ~ProfileTimer();
  ProfileTimer(const ProfileTimer&) = delete;
  ProfileTimer& operator=(const ProfileTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  void start();
  void stop();

  bool on_;
  std::string_view name_;
  bool backward_ = false;
  int exceptions_ = 0;
  Clock::time_point start_;
  size_t mark_ = 0;
  ProfileTimer* outer_ = nullptr;
  double inside_ = 0;           // seconds of timers within this one
  std::vector<size_t> pieces_;  // on a device: marks of timers within this one, in pairs
};

}  // namespace tessera
