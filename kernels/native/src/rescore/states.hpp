// States of queries as the host reads them, and the heaviest samples among those that pass by.
#pragma once
#include <limits>

#include "rescore/compensated.hpp"

namespace oracle {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

struct StatesView {
    double *lse, *lse_rest;                      // [B]
    double* mean;                                // [B, dim] or null
    double *concentration, *entropy, *variance;  // [B] or null
    double *top_logits, *top_rest;               // [B, top_k]
    int64_t* top_rows;
    int64_t top_k;
};

// The heaviest samples of a query in falling order: by differences, which keep digits that logits have no room for.
class Heaviest {
  public:
    Heaviest(const StatesView& out, int64_t query)
        : most_(out.top_k),
          high_(out.top_logits + query * out.top_k),
          low_(out.top_rest + query * out.top_k),
          row_(out.top_rows + query * out.top_k) {}

    // the logit that a sample must exceed, or equal in its high part, to be named
    double least() const { return most_ == 0 ? std::numeric_limits<double>::infinity() : high_[most_ - 1]; }

    void offer(double high, double low, int64_t row) {
        if (most_ == 0 || high == kNothing || !above(high, low, most_ - 1)) return;
        int64_t place = most_ - 1;
        for (; place > 0 && above(high, low, place - 1); --place) {
            high_[place] = high_[place - 1];
            low_[place] = low_[place - 1];
            row_[place] = row_[place - 1];
        }
        high_[place] = high;
        low_[place] = low;
        row_[place] = row;
    }

  private:
    // of two infinities the difference is none
    bool above(double high, double low, int64_t place) const {
        return high_[place] == kNothing || (high - high_[place]) + (low - low_[place]) > 0.0;
    }

    int64_t most_;
    double *high_, *low_;
    int64_t* row_;
};

}  // namespace oracle
