// Marks on the time line of a device, for profiles.
#pragma once

#include <memory>

#include "tessera/core/device.h"

namespace tessera {

class EventMarks {
 public:
  explicit EventMarks(Device device);
  ~EventMarks();
  EventMarks(const EventMarks&) = delete;
  EventMarks& operator=(const EventMarks&) = delete;

  size_t mark();  // the number of a mark behind everything asked of the device so far
  void wait() const;
  double seconds(size_t from, size_t to) const;  // between two marks that were waited for

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera
