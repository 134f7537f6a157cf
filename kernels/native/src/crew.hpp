// How many threads work on a scan: as many as it is worth waking, or as many as are awake.
#pragma once
#include <cstdint>

namespace oracle {

// One scan that is cut into shares. Who works on them changes no bit of what comes out.
class Crew {
  public:
    // shares: of the scan. operations: of all of them.
    Crew(int64_t shares, double operations);

    int hands() const { return hands_; }

    // Learns from a parallel region of the scan that took so many seconds.
    void learn(double seconds) const;

  private:
    double operations_;
    int hands_;
    bool small_;  // whether help is not worth waking for this scan alone
};

// Seconds of a clock that only goes on.
double seconds_now();

}  // namespace oracle
