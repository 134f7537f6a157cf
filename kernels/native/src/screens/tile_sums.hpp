// What tiles hold that no query need look into: sums of upper weights relative to floors.
#pragma once
#include "screens/screens.hpp"

namespace oracle {

// upper weights relative to a floor are never taken as less than this: zeros would be no bound
constexpr float kLeastExponent = -80.0f;
constexpr double kLeastWeight = 1.81e-35;

// The largest upper logits of tiles, [tiles, lanes].
struct TileMaximaView {
    const float* largest;
    int64_t tiles, lanes;
};

// exp(gap) for gaps below zero, at least exp(kLeastExponent), and nothing for what does not count.
ORACLE_INLINE FloatVector weights_below(FloatVector gap) {
    const FloatVector least = broadcast(kLeastExponent);
    const FloatVector weight = exponential(select<float>(gap < least, least, gap));
    return select<float>(gap > broadcast(kClosed), weight, FloatVector{});
}

// How many tiles reach the floors of a vector of queries, and the sums of upper weights in all others, relative to the
// floors; of the first `count` queries.
inline void close_tiles(const TileMaximaView& maxima, const float* floors, int64_t lane, int64_t count, int64_t* open,
                        double* below) {
    constexpr int W = kLanesOfScreen;
    const FloatVector floor = load(floors + lane), least = broadcast(kLeastExponent);
    FloatMask reaching{};
    double total[W] = {};
    for (int64_t first = 0; first < maxima.tiles; first += 64) {
        FloatVector sum{};
        for (int64_t tile = first; tile < std::min(first + 64, maxima.tiles); ++tile) {
            FloatVector gap = load(maxima.largest + tile * maxima.lanes + lane) - floor;
            const FloatMask reached = gap >= FloatVector{};
            reaching -= reached;
            gap = select<float>(gap < least, least, gap);
            sum += select<float>(reached, FloatVector{}, exponential(gap));
        }
        for (int k = 0; k < W; ++k) total[k] += sum[k];
    }
    for (int64_t k = 0; k < count; ++k) open[lane + k] = reaching[k], below[lane + k] = kTile * total[k];
}

}  // namespace oracle
