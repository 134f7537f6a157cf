#include "search/search_tiles.hpp"

#include "screens/tile_sums.hpp"

namespace oracle {
namespace {

constexpr int W = kLanesOfScreen;

// queries whose products with a row are taken together
constexpr int kFour = 4;

// exp(gap), at least exp(kLeastExponent).
ORACLE_INLINE double weight_below(float gap) {
    return gap <= kLeastExponent ? kLeastWeight : std::exp(static_cast<double>(gap));
}

// <row, query> over `width` values.
ORACLE_INLINE void one_product(const float* row, const float* query, int64_t width, float* out) {
    FloatVector sums[kFour] = {};
    int64_t d = 0;
    for (; d + kFour * W <= width; d += kFour * W)
#pragma GCC unroll 4
        for (int q = 0; q < kFour; ++q) sums[q] += load(row + d + q * W) * load(query + d + q * W);
    float last = 0.0f;
    for (; d < width; ++d) last += row[d] * query[d];
    *out = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3])) + last;
}

// sums[q] = <row, queries[q]> over `width` values.
ORACLE_INLINE void four_products(const float* row, const float* const* queries, int64_t width, float* out) {
    FloatVector sums[kFour] = {};
    int64_t d = 0;
    for (; d + W <= width; d += W) {
        const FloatVector values = load(row + d);
#pragma GCC unroll 4
        for (int q = 0; q < kFour; ++q) sums[q] += values * load(queries[q] + d);
    }
#pragma GCC unroll 4
    for (int q = 0; q < kFour; ++q) {
        float last = 0.0f;
        for (int64_t k = d; k < width; ++k) last += row[k] * queries[q][k];
        out[q] = sum_of(sums[q]) + last;
    }
}

// sums[r][v] += <x_r, q_v> over `count` values of rows `stride` apart; queries: [count][kPairLanes].
ORACLE_INLINE void add_products(const float* rows, int64_t stride, int64_t count, const float* queries,
                                FloatVector (&sums)[kRowsTogether][2]) {
    // few addresses reach all rows
    const float* x[kRowsTogether / 3];
    for (int r = 0; r < kRowsTogether / 3; ++r) x[r] = rows + 3 * r * stride;
    for (int64_t d = 0; d < count; ++d) {
        const FloatVector first = load(queries + d * kPairLanes), second = load(queries + d * kPairLanes + W);
#pragma GCC unroll 12
        for (int r = 0; r < kRowsTogether; ++r) {
            const FloatVector value = broadcast(x[r / 3][(r % 3) * stride + d]);
            sums[r][0] += value * first, sums[r][1] += value * second;
        }
    }
}

}  // namespace

SearchTiles::SearchTiles(const SearchAsked& asked, const SearchQueries& queries)
    : asked_(asked),
      queries_(queries),
      tiles_((asked.stop - asked.start + kTile - 1) / kTile),
      threads_(usable_threads(asked.threads)) {
    const int64_t stride = first().stride, batch = asked.queries.count;
    for (int64_t lane = 0; lane < queries.lanes(); lane += kPairLanes) {
        Pair pair = {std::vector<float>(stride * kPairLanes), true, std::vector<int32_t>(kPairLanes)};
        for (int64_t k = 0; k < kPairLanes && lane + k < batch; ++k) {
            const float* from = queries.factors(lane + k);
            for (int64_t d = 0; d < stride; ++d) pair.factors[d * kPairLanes + k] = from[d];
            if (asked.shared != nullptr) pair.columns[k] = static_cast<int32_t>(asked.shared_column[lane + k]);
            pair.adjacent = pair.adjacent && pair.columns[k] == pair.columns[0] + k;
        }
        pair.adjacent = pair.adjacent && pair.columns[0] + kPairLanes <= asked.shared_stride;
        pairs_.push_back(std::move(pair));
    }
    largest_.resize(tiles_ * queries.lanes());
}

// Products of a row with the starting points of two vectors of queries.
void SearchTiles::share_products(const Pair& pair, int64_t row, FloatVector* products) const {
    const float* from = asked_.shared + row * asked_.shared_stride;
    if (pair.adjacent) {
        for (int v = 0; v < 2; ++v) products[v] = load(from + pair.columns[0] + v * W);
        return;
    }
    float some[kPairLanes];
    for (int64_t k = 0; k < kPairLanes; ++k) some[k] = from[pair.columns[k]];
    for (int v = 0; v < 2; ++v) products[v] = load(some + v * W);
}

// Upper logits of a tile, and what they are estimated to be: residuals are orthogonal to most queries.
void SearchTiles::bound(int64_t tile, int64_t lane, std::vector<float>& room, Values& values) const {
    const SearchLevel& level = first();
    const int64_t row = asked_.start + tile * kTile, count = std::min<int64_t>(kTile, asked_.stop - row);
    const float* features = level.features + row * level.stride;
    if (count < kTile) {
        room.assign(kTile * level.stride, 0.0f);
        std::memcpy(room.data(), features, ((count - 1) * level.stride + level.stride) * sizeof(float));
        features = room.data();
    }
    const Pair& pair = pairs_[lane / kPairLanes];
    const int64_t norms = level.norms(asked_.blocks), beside = level.width + norms;
    const float *slack = queries_.slack.data() + lane, *gain = queries_.shared_gain.data() + lane;
    const float* rest_gain = queries_.rest_gain.data() + lane;
    for (int at = 0; at < kTile; at += kRowsTogether) {
        FloatVector sums[kRowsTogether][2];
#pragma GCC unroll 12
        for (int r = 0; r < kRowsTogether; ++r) sums[r][0] = FloatVector{}, sums[r][1] = FloatVector{};
        const float* from = features + at * level.stride;
        add_products(from, level.stride, level.width, pair.factors.data(), sums);
        add_products(from + beside, level.stride, asked_.tail(), pair.factors.data() + beside * kPairLanes, sums);
        for (int r = 0; asked_.shared != nullptr && r < std::min<int64_t>(kRowsTogether, count - at); ++r) {
            FloatVector shared[2];
            share_products(pair, row + at + r, shared);
            for (int v = 0; v < 2; ++v) sums[r][v] += shared[v] * load(gain + v * W);
        }
        float *estimate = values.estimate + at * kPairLanes, *upper = values.upper + at * kPairLanes;
#pragma GCC unroll 12
        for (int r = 0; r < kRowsTogether; ++r)
            for (int v = 0; v < 2; ++v) store(estimate + r * kPairLanes + v * W, sums[r][v]);
        add_products(from + level.width, level.stride, norms, pair.factors.data() + level.width * kPairLanes, sums);
        for (int r = 0; r < kRowsTogether; ++r) {
            const FloatVector rest = broadcast(queries_.rest_of(from + r * level.stride + level.width));
            for (int v = 0; v < 2; ++v)
                store(upper + r * kPairLanes + v * W,
                      sums[r][v] + (rest * load(rest_gain + v * W) + load(slack + v * W)));
        }
    }
    std::fill(values.estimate + count * kPairLanes, values.estimate + kTile * kPairLanes, kClosed);
    std::fill(values.upper + count * kPairLanes, values.upper + kTile * kPairLanes, kClosed);
    if (asked_.ranges > 0) exclude(row, count, lane, values);
}

// Takes out the ranges of rows that do not count for a query.
void SearchTiles::exclude(int64_t row, int64_t count, int64_t lane, Values& values) const {
    for (int64_t k = 0; k < kPairLanes && lane + k < asked_.queries.count; ++k) {
        const int64_t* range = asked_.excluded + 2 * (lane + k) * asked_.ranges;
        for (int64_t h = 0; h < asked_.ranges; ++h, range += 2)
            for (int64_t at = std::max(range[0], row); at < std::min(range[1], row + count); ++at) {
                values.upper[(at - row) * kPairLanes + k] = kClosed;
                values.estimate[(at - row) * kPairLanes + k] = kClosed;
            }
    }
}

void SearchTiles::bound_all(int64_t* promising) {
    const int64_t all = queries_.lanes();
    std::vector<float> best(threads_ * all, kClosed);
    std::vector<int32_t> row(threads_ * all, -1);
    share_out(threads_, threads_, [&](int64_t share) {
        std::vector<float> room;
        Values values;
        for (int64_t tile = tiles_ * share / threads_; tile < tiles_ * (share + 1) / threads_; ++tile)
            for (int64_t lane = 0; lane < all; lane += kPairLanes) {
                bound(tile, lane, room, values);
                for (int v = 0; v < 2; ++v) {
                    const int64_t at = share * all + lane + v * W;
                    FloatVector largest = broadcast(kClosed), ahead = load(best.data() + at);
                    for (int r = 0; r < kTile; ++r) {
                        const FloatVector upper = load(values.upper + r * kPairLanes + v * W);
                        largest = select<float>(upper > largest, upper, largest);
                        const FloatVector estimate = load(values.estimate + r * kPairLanes + v * W);
                        const FloatMask larger = estimate > ahead;
                        ahead = select<float>(larger, estimate, ahead);
                        for (uint32_t bits = lanes_of<float>(larger); bits != 0; bits &= bits - 1)
                            row[at + __builtin_ctz(bits)] = static_cast<int32_t>(tile * kTile + r);
                    }
                    store(best.data() + at, ahead);
                    store(largest_.data() + tile * all + lane + v * W, largest);
                }
            }
    });
    for (int64_t lane = 0; lane < all; ++lane) {
        int64_t ahead = lane;
        for (int64_t at = lane + all; at < threads_ * all; at += all)
            if (best[at] > best[ahead]) ahead = at;
        promising[lane] = row[ahead] < 0 ? -1 : asked_.start + row[ahead];
    }
}

void SearchTiles::close(const float* floors, int64_t* open, double* below) const {
    const TileMaximaView maxima = {largest_.data(), tiles_, queries_.lanes()};
    for (int64_t lane = 0; lane < queries_.lanes(); lane += W) close_tiles(maxima, floors, lane, W, open, below);
}

std::vector<Visited> SearchTiles::visit(const float* floors) const {
    const int64_t all = queries_.lanes();
    std::vector<Visited> shares(threads_);
    share_out(threads_, threads_, [&](int64_t share) {
        std::vector<float> room;
        shares[share].below.assign(all, 0.0);
        for (int64_t tile = tiles_ * share / threads_; tile < tiles_ * (share + 1) / threads_; ++tile)
            for (int64_t lane = 0; lane < all; lane += kPairLanes) look(tile, lane, floors, room, shares[share]);
    });
    return shares;
}

// Bounds the rows of a tile once more where it is open to a query, and hands on those that reach their floors.
void SearchTiles::look(int64_t tile, int64_t lane, const float* floors, std::vector<float>& room,
                       Visited& found) const {
    const float* largest = largest_.data() + tile * queries_.lanes() + lane;
    FloatMask open[2];
    for (int v = 0; v < 2; ++v) open[v] = load(largest + v * W) >= load(floors + lane + v * W);
    if (lanes_of<float>(open[0] | open[1]) == 0) return;
    Values values;
    bound(tile, lane, room, values);
    FloatVector sums[2] = {};
    for (int r = 0; r < kTile; ++r) {
        Left left(asked_.start + tile * kTile + r);
        for (int v = 0; v < 2; ++v) {
            const int at = r * kPairLanes + v * W;
            const FloatVector upper = load(values.upper + at), gap = upper - load(floors + lane + v * W);
            const FloatMask reached = open[v] & (gap >= FloatVector{});
            sums[v] += select<float>(open[v] & ~reached, weights_below(gap), FloatVector{});
            for (uint32_t bits = lanes_of<float>(reached); bits != 0; bits &= bits - 1) {
                const int k = __builtin_ctz(bits);
                left.add(lane + v * W + k, values.estimate[at + k], upper[k]);
            }
        }
        if (left.count > 0) hand_on(left, first().skipped, floors, found);
    }
    for (int v = 0; v < 2; ++v)
        for (int k = 0; k < W; ++k) found.below[lane + v * W + k] += sums[v][k];
}

void SearchTiles::narrow(std::vector<Visited>& visited, const float* floors) const {
    share_out(threads_, threads_, [&](int64_t share) {
        Visited& found = visited[share];
        const std::vector<MatteringRow> rows = std::move(found.rows);
        found.rows.clear();
        for (size_t k = 0; k < rows.size();) {
            Left left(rows[k].row);
            for (; k < rows.size() && rows[k].row == left.row && left.count < kPairLanes; ++k)
                left.add(rows[k].query, rows[k].estimate, rows[k].upper);
            hand_on(left, queries_.projected() - 1, floors, found);
        }
    });
}

// Bounds a row by the blocks from `block` on, and hands it on to the queries whose floors it still reaches.
void SearchTiles::hand_on(Left& left, int64_t block, const float* floors, Visited& found) const {
    for (; block < queries_.projected() && left.count > 0; ++block) refine(left, block, floors, found);
    for (int64_t q = 0; q < left.count; ++q)
        found.rows.push_back({left.lane[q], left.row, left.upper[q], left.estimate[q]});
}

// Products of `width` coordinates from `from` on of a row with the queries that it is left to.
void SearchTiles::multiply(const Left& left, int64_t from, int64_t width, float* products) const {
    const SearchLevel& last = asked_.levels[asked_.depth - 1];
    const float* features = last.features + left.row * last.stride + from;
    for (int64_t some = 0; some < left.count; some += kFour) {
        const float* queries[kFour];
        const int64_t stop = std::min<int64_t>(some + kFour, left.count);
        for (int q = 0; q < kFour; ++q)
            queries[q] = queries_.coordinates(left.lane[std::min<int64_t>(some + q, stop - 1)]) + from;
        if (stop - some == 1)
            one_product(features, queries[0], width, products + some);
        else
            four_products(features, queries, width, products + some);
    }
}

// Bounds a row by the coordinates of a block, too, for the queries that it is left to.
void SearchTiles::refine(Left& left, int64_t block, const float* floors, Visited& found) const {
    const SearchLevel& level = first();
    const float* norms = level.features + left.row * level.stride + level.width;
    const int64_t from = asked_.edges[block];
    float products[kPairLanes];
    multiply(left, from, asked_.edges[block + 1] - from, products);
    const float rest = queries_.rest_of(norms);
    int64_t kept = 0;
    for (int64_t q = 0; q < left.count; ++q) {
        const int64_t lane = left.lane[q];
        const float estimate = left.estimate[q] + products[q];
        const float* gains = queries_.factors(lane) + level.width;
        float upper = estimate + queries_.slack[lane] + rest * queries_.rest_gain[lane];
        for (int64_t k = block + 1 - level.skipped; k < level.norms(asked_.blocks); ++k) upper += norms[k] * gains[k];
        upper = std::min(upper, left.upper[q]);
        if (upper >= floors[lane])
            left.lane[kept] = lane, left.estimate[kept] = estimate, left.upper[kept++] = upper;
        else
            found.below[lane] += weight_below(upper - floors[lane]);
    }
    left.count = kept;
}

}  // namespace oracle
