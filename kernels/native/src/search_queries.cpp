// Projection of queries, and the coefficients of their upper logits: see kernels/screens/query_bounds.py.
#include "search_queries.hpp"

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
    : slack(0), shared_gain(0), asked_(asked), queries_(*asked.rows, asked.queries) {
    const int64_t batch = asked.queries.count, dim = asked.rows->dim, all = lanes();
    slack.assign(all, kClosed), shared_gain.assign(all, 0.0f), hopeless.assign(batch, 0);
    share_.assign(batch, 0.0), rest_square_ = queries_.squares;
    if (asked.shared != nullptr) rest_.resize(batch * dim);
    coordinates_.resize(all * asked.coordinates);
    for (int64_t level = 0; level < asked.depth; ++level) factors_.emplace_back(all * asked.levels[level].stride, 0.0f);
    share_out(usable_threads(asked.threads), all / kPairLanes, [&](int64_t task) {
        const int64_t first = task * kPairLanes, last = std::min(batch, first + kPairLanes);
        for (int64_t b = first; asked.shared != nullptr && b < last; ++b) take_shared_off(b);
        project(first);
        for (int64_t b = first; b < last; ++b) make_factors(b);
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

// Writes the coordinates of the queries from `first` on that are multiplied together.
void SearchQueries::project(int64_t first) {
    constexpr int W = kLanesOfScreen;
    const int64_t dim = asked_.rows->dim, all = asked_.coordinates;
    const double* points = asked_.shared != nullptr ? rest_.data() : asked().point;
    const int64_t count = std::min(kPairLanes, asked_.queries.count - first);
    std::vector<float> packed(dim * kPairLanes);
    // a few values of all queries at a time: they are written side by side
    for (int64_t from = 0; from < dim; from += 16)
        for (int64_t lane = 0; lane < count; ++lane)
            for (int64_t d = from; d < std::min(from + 16, dim); ++d)
                packed[d * kPairLanes + lane] = static_cast<float>(points[(first + lane) * dim + d]);
    for (int64_t at = 0; at < all; at += kRowsTogether) {
        FloatVector sums[kRowsTogether][2];
        multiply_floats<kRowsTogether, 2>(asked_.basis + at * dim, dim, dim, packed.data(), sums);
        for (int r = 0; r < kRowsTogether; ++r)
            for (int64_t lane = 0; lane < count; ++lane)
                coordinates_[(first + lane) * all + at + r] = sums[r][lane / W][lane % W];
    }
}

// What norms of residuals are multiplied with: of all blocks, of what none of them holds, and of everything, [blocks +
// 2].
std::vector<double> SearchQueries::residual_gains(int64_t b) const {
    const float* coordinates = coordinates_.data() + b * asked_.coordinates;
    std::vector<double> gains(asked_.blocks + 2, 0.0);
    double known = 0.0;
    for (int64_t k = 0; k < asked_.edges[asked_.blocks]; ++k)
        known += static_cast<double>(coordinates[k]) * coordinates[k];
    for (int64_t block = 0; block < asked_.blocks; ++block) {
        double square = 0.0;
        for (int64_t k = asked_.edges[block]; k < asked_.edges[block + 1]; ++k)
            square += static_cast<double>(coordinates[k]) * coordinates[k];
        gains[block] = gain(b) * std::sqrt(square);
    }
    // what cancels here is lost below the rounding of the projection, relative to the norm, which is added
    const double square = rest_square_[b] * (1.0 + 2.0 * asked_.coordinate_error) - known;
    gains[asked_.blocks] = gain(b) * std::sqrt(std::max(square, 0.0));
    if (asked_.source != nullptr && asked_.source[b] >= 0) from_source(b, gains);
    return gains;
}

// Replaces the gains by those of a known source where these bound a typical row more closely.
bool SearchQueries::from_source(int64_t b, std::vector<double>& gains) const {
    const SearchLevel& level = *asked_.source_level;
    const float* own = level.features + asked_.source[b] * level.stride + level.width;
    std::vector<double> other(gains.size());
    double before = 0.0, after = 0.0;
    for (int64_t k = 0; k <= asked_.blocks; ++k) {
        other[k] = gain(b) * asked().alpha[b] * own[k];
        before += gains[k] * asked_.typical[k], after += other[k] * asked_.typical[k];
    }
    const double deviation = 1.0 / std::sqrt(asked().inverse_variance[b]);
    other.back() = gain(b) * (deviation * asked_.deviations + asked_.blur[b]);
    after += other.back() * asked_.typical[asked_.blocks + 1];
    if (!(after < before)) return false;
    gains = other;
    return true;
}

void SearchQueries::make_factors(int64_t b) {
    const double alpha = asked().alpha[b], factor = gain(b), radius = asked_.rows->radius;
    const std::vector<double> gains = residual_gains(b);
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
    const float* coordinates = coordinates_.data() + b * asked_.coordinates;
    for (int64_t at = 0; at < asked_.depth; ++at) {
        const SearchLevel& level = asked_.levels[at];
        float* to = factors_[at].data() + b * level.stride;
        for (int64_t k = 0; k < level.width; ++k) *to++ = static_cast<float>(factor * coordinates[k]);
        for (int64_t k = level.skipped; k < asked_.blocks + 2; ++k) *to++ = static_cast<float>(gains[k] * kUpward);
        *to++ = static_cast<float>(-factor * alpha);
        if (asked_.rows->log_weights != nullptr) *to = 1.0f;
    }
}

}  // namespace oracle
