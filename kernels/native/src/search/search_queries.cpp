// Projection of queries, and the coefficients of their upper logits: see kernels/screens/bounds/query_bounds.py.
#include "search/search_queries.hpp"

namespace oracle {
namespace {

double product(const double* one, const double* other, int64_t dim) {
    Wide total = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) total = fused(wide(one + d), wide(other + d), total);
    double found = lane_sum(total);
    for (; d < dim; ++d) found += one[d] * other[d];
    return found;
}

}  // namespace

SearchQueries::SearchQueries(const SearchAsked& asked)
    : asked_(asked), queries_(*asked.rows, asked.queries), projected_(asked.projected) {
    const int64_t batch = asked.queries.count, all = lanes();
    slack.assign(all, kClosed), shared_gain.assign(all, 0.0f), rest_gain.assign(all, 0.0f), hopeless.assign(batch, 0);
    share_.assign(batch, 0.0), sourced_.assign(batch, 0), rest_square_ = queries_.squares;
    if (asked.shared != nullptr) rest_.resize(batch * asked.rows->dim);
    squares_.assign(batch * (asked.blocks + 1), 0.0);
    coordinates_.resize(all * asked.coordinates), scaled_.resize(all * asked.coordinates);
    factors_.assign(all * first().stride, 0.0f);
    share_out(usable_threads(asked.threads), all / kPairLanes, [&](int64_t task) {
        const int64_t lane = task * kPairLanes, last = std::min(batch, lane + kPairLanes);
        for (int64_t b = lane; asked.shared != nullptr && b < last; ++b) take_shared_off(b);
        project(lane, kFirst, projected_);
        for (int64_t b = lane; b < last; ++b) make_factors(b);
    });
}

void SearchQueries::project_block() {
    const int64_t block = projected_++;
    share_out(usable_threads(asked_.threads), lanes() / kPairLanes, [&](int64_t task) {
        const int64_t lane = task * kPairLanes, last = std::min(asked_.queries.count, lane + kPairLanes);
        project(lane, block, block + 1);
        for (int64_t b = lane; b < last; ++b)
            if (!hopeless[b]) set_gains(b);
    });
}

// Takes the multiple of the starting point off that leaves the shortest rest.
void SearchQueries::take_shared_off(int64_t b) {
    const int64_t dim = asked_.rows->dim;
    const double *start = asked_.shared_point + b * dim, *point = this->point(b);
    const double share = product(point, start, dim) / std::max(squared_norm(start, dim), 1e-300);
    double* rest = rest_.data() + b * dim;
    for (int64_t d = 0; d < dim; ++d) rest[d] = point[d] - share * start[d];
    share_[b] = share, rest_square_[b] = squared_norm(rest, dim);
}

// Projects the queries from `lane` on that are multiplied together on the blocks [from, to).
void SearchQueries::project(int64_t lane, int64_t from, int64_t to) {
    const int64_t last = std::min(asked_.queries.count, lane + kPairLanes);
    multiply(lane, begin(from), asked_.edges[to]);
    for (int64_t b = lane; b < last; ++b) {
        const float* coordinates = coordinates_.data() + b * asked_.coordinates;
        float* scaled = scaled_.data() + b * asked_.coordinates;
        const double factor = gain(b);
        for (int64_t block = from; block < to; ++block) {
            double square = 0.0;
            for (int64_t k = begin(block); k < asked_.edges[block + 1]; ++k) {
                square += static_cast<double>(coordinates[k]) * coordinates[k];
                scaled[k] = static_cast<float>(factor * coordinates[k]);
            }
            square_of(b, block) = square;
        }
    }
}

// Writes the coordinates [from, to) of the queries from `lane` on, and those beside them that take no time.
void SearchQueries::multiply(int64_t lane, int64_t from, int64_t to) {
    constexpr int W = kLanesOfScreen;
    const int64_t dim = asked_.rows->dim, all = asked_.coordinates;
    const double* points = asked_.shared != nullptr ? rest_.data() : asked().point;
    const int64_t count = std::min(kPairLanes, asked_.queries.count - lane);
    std::vector<float> packed(dim * kPairLanes);
    // a few values of all queries at a time: they are written side by side
    for (int64_t some = 0; some < dim; some += 16)
        for (int64_t k = 0; k < count; ++k)
            for (int64_t d = some; d < std::min(some + 16, dim); ++d)
                packed[d * kPairLanes + k] = static_cast<float>(points[(lane + k) * dim + d]);
    for (int64_t at = from / kRowsTogether * kRowsTogether; at < to; at += kRowsTogether) {
        FloatVector sums[kRowsTogether][2];
        multiply_floats<kRowsTogether, 2>(asked_.basis + at * dim, dim, dim, packed.data(), sums);
        for (int r = 0; r < kRowsTogether; ++r)
            for (int64_t k = 0; k < count; ++k) coordinates_[(lane + k) * all + at + r] = sums[r][k / W][k % W];
    }
}

// The norm of what a query has beyond the blocks that it is projected on, at most.
double SearchQueries::rest_norm(int64_t b) {
    double known = 0.0;
    for (int64_t block = kFirst; block < projected_; ++block) known += square_of(b, block);
    // what cancels here is lost below the rounding of the projection, relative to the norm, which is added
    const double square = rest_square_[b] * (1.0 + 2.0 * asked_.coordinate_error) - known;
    return std::sqrt(std::max(square, 0.0));
}

// Writes what norms of residuals are multiplied with: in the blocks that the query is projected on, and of the rest; of
// all blocks and the whole where the source of the query bounds it.
void SearchQueries::set_gains(int64_t b) {
    if (sourced_[b]) return;
    std::vector<double> gains(asked_.blocks + 2, 0.0);
    for (int64_t block = 0; block < projected_; ++block) gains[block] = gain(b) * std::sqrt(square_of(b, block));
    double rest = gain(b) * rest_norm(b);
    sourced_[b] = asked_.source != nullptr && asked_.source[b] >= 0 && from_source(b, gains, rest);
    rest_gain[b] = sourced_[b] ? 0.0f : static_cast<float>(rest * kUpward);
    float* to = factors_.data() + b * first().stride + first().width;
    for (int64_t k = first().skipped; k < asked_.blocks + 2; ++k) *to++ = static_cast<float>(gains[k] * kUpward);
}

// Replaces the gains by those of a known source where these bound a typical row more closely.
bool SearchQueries::from_source(int64_t b, std::vector<double>& gains, double rest) const {
    const SearchLevel& level = *asked_.source_level;
    const float* own = level.features + asked_.source[b] * level.stride + level.width;
    std::vector<double> other(gains.size());
    double before = 0.0, after = 0.0, beyond = 0.0;
    for (int64_t k = 0; k <= asked_.blocks; ++k) {
        other[k] = gain(b) * asked().alpha[b] * own[k];
        before += gains[k] * asked_.typical[k], after += other[k] * asked_.typical[k];
        if (k >= projected_) beyond += asked_.typical[k] * asked_.typical[k];
    }
    before += rest * std::sqrt(beyond);
    const double deviation = 1.0 / std::sqrt(asked().inverse_variance[b]);
    other.back() = gain(b) * (deviation * asked_.deviations + asked_.blur[b]);
    after += other.back() * asked_.typical[asked_.blocks + 1];
    if (!(after < before)) return false;
    gains = other;
    return true;
}

void SearchQueries::make_factors(int64_t b) {
    const double alpha = asked().alpha[b], factor = gain(b), radius = asked_.rows->radius;
    double rounding =
        asked_.upper_error * (std::sqrt(rest_square_[b]) * 2.0 * radius + std::fabs(alpha) * radius * radius);
    if (asked_.shared != nullptr) {
        const double* start = asked_.shared_point + b * asked_.rows->dim;
        rounding += asked_.shared_error * std::fabs(share_[b]) * std::sqrt(squared_norm(start, asked_.rows->dim));
        shared_gain[b] = static_cast<float>(factor * share_[b]);
    }
    const double allowed = factor * rounding + asked_.weight_error;
    hopeless[b] = !(allowed < kHopeless);
    // rounding the slack, and what it is added to
    slack[b] = hopeless[b] ? 0.0f : static_cast<float>(allowed + allowed * 0x1p-20);
    if (hopeless[b]) return;
    set_gains(b);
    float* to = factors_.data() + b * first().stride;
    std::copy(coordinates(b), coordinates(b) + first().width, to);
    to += first().width + first().norms(asked_.blocks);
    *to++ = static_cast<float>(-factor * alpha);
    if (asked_.rows->log_weights != nullptr) *to = 1.0f;
}

}  // namespace oracle
