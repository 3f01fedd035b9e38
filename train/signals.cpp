#include "tessera/train/signals.h"

#include <csignal>

namespace tessera {
namespace {

volatile std::sig_atomic_t stop_requested = 0;

// A second signal ends the process the usual way.
void on_signal(int signal) {
  stop_requested = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

StopSignals::StopSignals()
    : interrupt_(std::signal(SIGINT, on_signal)), terminate_(std::signal(SIGTERM, on_signal)) {
  stop_requested = 0;
}

StopSignals::~StopSignals() {
  std::signal(SIGINT, interrupt_);
  std::signal(SIGTERM, terminate_);
}

bool StopSignals::requested() {
  return stop_requested != 0;
}

}  // namespace tessera
