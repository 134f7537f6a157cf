#include "crew.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "threads.hpp"

namespace oracle {
namespace {

// operations of a scan that is worth waking threads for by itself, which takes up to 6 ms on a virtual machine
constexpr double kWorthWaking = 8e7;

// Seconds that scans one after the other take alone before threads are woken for the next ones: what it cost the last
// time, so that it is never more than doubled. The first time, at least, and at most where threads have not paid.
constexpr double kFirstPrice = 1e-3, kLeastPrice = 1e-4, kHighestPrice = 1.0;

// what is left of a price above the first one after every pause: what waking cost may have been another process's doing
constexpr double kRemembered = 0.5;

// seconds that help may lose before it is done without, and that it can have saved at most: where others have the
// processors a parallel region waits for them
constexpr double kCredit = 1e-3, kMostCredit = 5e-3;

// seconds without work after which threads may sleep: they are known to wait for more for a few milliseconds
constexpr double kAwake = 2e-3;

// how much slower an operation is taken to be at most than it was in the scan before
constexpr double kDrift = 1.1;

// What small scans of the thread that asks have been like; the threads that help it are its own.
struct Past {
    double last = 0.0;                   // when the last of them ended
    double alone = 0.0;                  // seconds of an operation without help
    double spent = 0.0;                  // seconds of scans without help, one after the other
    double price = kFirstPrice;          // seconds without help that lead to help
    double credit = 0.0;                 // seconds that help has saved
    int losses = 0;                      // how often in a row it has lost more
    bool helped = false, woken = false;  // whether there is help now, and whether it was there before
};

thread_local Past past;

}  // namespace

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Crew::Crew(int64_t shares, double operations)
    : operations_(operations), hands_(usable_threads(shares)), small_(hands_ > 1 && operations < kWorthWaking) {
    if (!small_) return;
    if (seconds_now() - past.last > kAwake) {
        past.helped = false, past.spent = 0.0;
        if (past.price > kFirstPrice) past.price = std::max(kFirstPrice, kRemembered * past.price);
    }
    if (!past.helped && past.spent >= past.price) past.helped = true, past.woken = false;
    if (!past.helped) hands_ = 1;
}

void Crew::learn(double seconds) const {
    if (!small_) return;
    past.last = seconds_now();
    if (hands_ == 1) {
        const double found = seconds / operations_;
        past.alone = past.alone > 0.0 ? std::min(kDrift * past.alone, found) : found;
        past.spent += seconds;
        return;
    }
    const double alone = past.alone * operations_;
    if (!past.woken) {
        past.woken = true, past.credit = kCredit;
        const double wake = std::max(seconds - alone / hands_, kLeastPrice);
        past.price = std::min(std::ldexp(wake, past.losses), kHighestPrice);
        return;
    }
    past.credit += alone - seconds;
    if (past.credit >= kMostCredit) past.credit = kMostCredit, past.losses = 0;
    if (past.credit >= 0.0) return;
    past.helped = false, past.spent = 0.0;
    past.price = std::min(2.0 * past.price, kHighestPrice), past.losses = std::min(past.losses + 1, 10);
}

}  // namespace oracle
