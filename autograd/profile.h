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

namespace tessera {

struct ProfileRow {
  std::string name;  // "linear" or, for the way back, "linear backward"
  int64_t calls = 0;
  double seconds = 0;
};

// Collects while it lives. One at a time, used on one thread.
class ProfileScope {
 public:
  ProfileScope();
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;
  std::vector<ProfileRow> rows() const;  // the most expensive first
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
  bool on_;
  std::string_view name_;
  bool backward_ = false;
  Clock::time_point start_;
  ProfileTimer* outer_ = nullptr;
  double inside_ = 0;  // seconds of timers within this one
};

}  // namespace tessera
