// The query side of a search: coordinates of a batch, block after block, and the coefficients of its upper logits.
#pragma once
#include "screens/screens.hpp"
#include "search/search.hpp"

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
    double point_error(int64_t b) const { return queries_.point_error(b, asked_.digits->roundoff); }
    QueriesView in_stored_coordinates() { return queries_.in_stored_coordinates(); }

    // Projects the queries on the directions of one more block.
    void project_block();

    // How many blocks the queries are projected on.
    int64_t projected() const { return projected_; }

    // The coefficients of a query at the first level, [stride].
    const float* factors(int64_t b) const { return factors_.data() + b * first().stride; }

    // The coordinates of a query in the blocks that it is projected on, times its gain.
    const float* coordinates(int64_t b) const { return scaled_.data() + b * asked_.coordinates; }

    // The norm of what a row has beyond these blocks: from its norms at the first level.
    float rest_of(const float* norms) const {
        double square = 0.0;
        for (int64_t k = projected_ - first().skipped; k <= asked_.blocks - first().skipped; ++k)
            square += static_cast<double>(norms[k]) * norms[k];
        return static_cast<float>(std::sqrt(square) * kUpward);
    }

    std::vector<float> slack, shared_gain, rest_gain;  // [lanes]; rest_gain: what rests of rows are multiplied with
    std::vector<char> hopeless;                        // [B]

  private:
    const SearchAsked& asked_;
    Queries queries_;
    std::vector<double> rest_, share_, rest_square_;  // points without what is shared, [B, dim], or none; [B]
    std::vector<double> squares_;              // of coordinates in the first ones and each block, [B, blocks + 1]
    std::vector<float> coordinates_, scaled_;  // [lanes, coordinates]
    std::vector<float> factors_;               // [lanes, stride]
    std::vector<char> sourced_;                // whether the source bounds a query, [B]
    int64_t projected_;

    // stands for the coordinates before the first block
    static constexpr int64_t kFirst = -1;

    const SearchLevel& first() const { return asked_.levels[0]; }
    int64_t begin(int64_t block) const { return block == kFirst ? 0 : asked_.edges[block]; }
    double& square_of(int64_t b, int64_t block) { return squares_[b * (asked_.blocks + 1) + block + 1]; }
    void take_shared_off(int64_t b);
    void project(int64_t lane, int64_t from, int64_t to);
    void multiply(int64_t lane, int64_t from, int64_t to);
    void make_factors(int64_t b);
    void set_gains(int64_t b);
    double rest_norm(int64_t b);
    bool from_source(int64_t b, std::vector<double>& gains, double rest) const;
};

}  // namespace oracle
