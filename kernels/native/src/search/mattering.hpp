// The rows that a search kept of each query, scored whole: the best of them prove that most of the others hold nothing.
#pragma once
#include "screens/tile_sums.hpp"
#include "search/search_tiles.hpp"

namespace oracle {

// What one query keeps of its rows, and what is known of the others.
struct Kept {
    std::vector<int64_t> rows;
    double best;                    // the log of the weights of all rows is no smaller
    double floor, mass;             // below which a row is left out; what may be left out, at most
    double below = 0.0;             // the upper weights of what was left out, relative to the floor
    std::vector<double> upper;      // of the rows that were scored
    double log_omitted = kNothing;  // of all that these functions leave out
};

// log(exp(one) + exp(other)).
inline double log_sum(double one, double other) {
    const double larger = std::max(one, other);
    return larger == kNothing ? larger : larger + std::log1p(std::exp(std::min(one, other) - larger));
}

// exp(gap), but never zero, which would be no bound.
inline double small_weight(double gap) {
    if (gap <= kLeastExponent) return gap > kNothing ? kLeastWeight : 0.0;
    return std::exp(gap);
}

// Products of whole rows with the queries of a search.
class WholeRows {
  public:
    WholeRows(const SearchAsked& asked, const SearchQueries& queries);

    // A bound from below on the log of the weights of all rows, up to what all logits of a query share: the logit of a
    // row. mass: becomes what may be left out of the query, at most.
    double least_partition(int64_t query, int64_t row, double& mass) const;

    // Raises the floor of a query by the row that promises most; kept: knows what was proved before.
    void raise(const MatteringRow* promising, Kept& kept) const;

    // The most that the logit of a row can be, which `least` becomes less twice the error of it.
    double upper(const MatteringRow& one, double& least) const;

    // Leaves out of the rows of a query what does not matter beside the best of them.
    void leave_out(Kept& kept) const;

    // Asks the memory for a row that is scored soon.
    void ask_for(int64_t row) const;

  private:
    const SearchAsked& asked_;
    const SearchQueries& queries_;
    std::vector<float> narrow_;           // [B, dim]
    std::vector<double> centre_, error_;  // [B]: products with the centre, and what float32 may hide of a logit

    double logit(int64_t query, int64_t row) const;
    double floor_of(const Kept& kept) const;
};

}  // namespace oracle
