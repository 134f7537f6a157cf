// Who works on the shares of a scan: threads that are waited for where it is large, and whoever comes in time where
// not.
#pragma once
#include <cstdint>

#include "threads/helpers.hpp"
#include "threads/threads.hpp"

namespace oracle {

// One scan that is cut into shares. Who works on them changes no bit of what comes out.
class Crew {
  public:
    // shares: of the scan. operations: of all of them.
    Crew(int64_t shares, double operations)
        : shares_(shares),
          operations_(operations),
          hands_(usable_threads(shares)),
          large_(operations >= kWorthWaking) {}

    // Calls work(share) for each share; they take so many `operations` altogether. work throws nothing.
    template <class Work>
    void share_out(double operations, const Work& work) const {
        if (!large_ && hands_ > 1 && operations >= kWorthHelp) return with_helpers(hands_, shares_, work);
        const int threads = large_ && operations >= kWorthRegion ? hands_ : 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
        for (int64_t share = 0; share < shares_; ++share) work(share);
    }

    // The same for what is most of the scan.
    template <class Work>
    void share_out(const Work& work) const {
        share_out(operations_, work);
    }

    // How many threads are worth their while where what is left takes so many `operations`.
    int worth(double operations) const { return operations < (large_ ? kWorthRegion : kWorthHelp) ? 1 : hands_; }

  private:
    // Operations of a scan that is worth waking threads for until the last of them comes, which takes up to 6 ms on a
    // virtual machine; of a further parallel region in it, which waits for a core on a busy machine; and of what is
    // worth the few microseconds that it takes to tell helpers of it.
    static constexpr double kWorthWaking = 1e9, kWorthRegion = 2e7, kWorthHelp = 1e6;

    int64_t shares_;
    double operations_;
    int hands_;
    bool large_;
};

}  // namespace oracle
