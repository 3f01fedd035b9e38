// SIGINT and SIGTERM as a wish to stop after the current step.
#pragma once

namespace tessera {

class StopSignals {
 public:
  StopSignals();   // installs the handlers
  ~StopSignals();  // puts the old ones back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  static bool requested();

 private:
  using Handler = void (*)(int);
  Handler interrupt_;
  Handler terminate_;
};

}  // namespace tessera
