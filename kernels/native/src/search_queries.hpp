// The query side of a search: coordinates of a batch, and the coefficients of its upper logits at every level.
#pragma once
#include "screens.hpp"
#include "search.hpp"

namespace oracle {

// queries that are multiplied together
constexpr int64_t kPairLanes = 2 * kLanesOfScreen;

// norms are stored a little larger than they are: a few float32 roundings
constexpr double kUpward = 1.0 + 0x1p-21;

// upper logits whose rounding alone may be so large are no bounds in float32
constexpr double kHopeless = 1e30;

class SearchQueries {
  public:
    explicit SearchQueries(const SearchAsked& asked);
    SearchQueries(const SearchQueries&) = delete;

    int64_t lanes() const { return (asked_.queries.count + kPairLanes - 1) / kPairLanes * kPairLanes; }
    const AskedQueries& asked() const { return queries_.asked(); }
    const double* point(int64_t b) const { return asked().point + b * asked_.rows->dim; }
    double gain(int64_t b) const { return asked().alpha[b] * asked().inverse_variance[b]; }
    double squares(int64_t b) const { return queries_.squares[b]; }
    QueriesView in_stored_coordinates() { return queries_.in_stored_coordinates(); }

    // The coefficients of a query at a level, [stride].
    const float* factors(int64_t level, int64_t b) const {
        return factors_[level].data() + b * asked_.levels[level].stride;
    }
    std::vector<float> slack, shared_gain;  // [lanes]
    std::vector<char> hopeless;             // [B]

  private:
    const SearchAsked& asked_;
    Queries queries_;
    std::vector<double> rest_, share_, rest_square_;  // points without what is shared, [B, dim], or none; [B]
    std::vector<float> coordinates_;                  // [B, coordinates]
    std::vector<std::vector<float>> factors_;         // for each level, [lanes, stride]

    void take_shared_off(int64_t b);
    void project(int64_t first);
    void make_factors(int64_t b);
    std::vector<double> residual_gains(int64_t b) const;
    bool from_source(int64_t b, std::vector<double>& gains) const;
};

}  // namespace oracle
