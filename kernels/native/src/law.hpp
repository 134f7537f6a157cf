// The rounding law of kernels/common/rounding.py for one query: how far below the log-partition rows matter.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

namespace oracle {

// What the law needs to know of a query: bounds on products, and how far apart competitors are.
struct QueryLaw {
    double bound, norms, own, spread, limit;
};

// What it needs to know of the scan.
struct ScanLaw {
    double factor, rounding, log_count, budget, far_apart, log_copies, worst_case, few_shares;
};

struct Windows {
    double weight, rescore;
};

// Returns the windows in nats; see `windows`, `logit_error` and `rescore_window` over there.
inline Windows windows_at(const ScanLaw& scan, const QueryLaw& query, double partition) {
    const double size = std::min(query.bound, std::fabs(partition) + query.norms);
    const double error = scan.factor * (size + query.own) + scan.rounding;
    const double weight = scan.log_count + 2.0 * scan.worst_case * error;
    const double excess = std::max(error * query.spread / scan.budget, 1e-300);
    double window = 2.0 * std::log(excess);
    if (scan.far_apart * excess > 1.0) window = std::max(window, std::log(scan.few_shares));
    if (window > 0.0) window += scan.log_copies;
    window = error > query.limit ? weight : std::min(window, weight);
    const double nowhere = -std::numeric_limits<double>::infinity();
    return {weight, window > 0.0 ? window + 2.0 * scan.worst_case * error : nowhere};
}

}  // namespace oracle
