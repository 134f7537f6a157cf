// Tiles of rows against vectors of queries: the largest upper logit of each tile, from registers.
#pragma once
#include <vector>

#include "screens/screens.hpp"

namespace oracle {

// bytes of queries that all rows of a share are multiplied with before the next: they stay in the second cache
constexpr int64_t kQueryBytes = 384 << 10;

// The coefficients of two vectors of queries, side by side, as the products read them.
class PackedPair {
  public:
    static constexpr int W = kLanesOfScreen;

    PackedPair(const ScreenView& screen, const BoundView& bound, int64_t first)
        : vectors(first + W < bound.lanes() ? 2 : 1), first_(first), count_(bound.count) {
        const auto codes = static_cast<Codes>(screen.codes);
        if (codes == Codes::f32)
            factors = floats(static_cast<const float*>(bound.factors), screen.width);
        else
            pack_digits(screen, bound);
        if (bound.feature_gains != nullptr) gains = floats(bound.feature_gains, screen.feature_width);
        slack = one(bound.slack), norm_gain = one(bound.norm_gain), shared_gain = one(bound.shared_gain);
    }

    int vectors;                                       // one or two
    std::vector<float> factors, gains;                 // [width][vectors][W]
    std::vector<float> slack, norm_gain, shared_gain;  // [vectors][W]
    std::vector<int32_t> digits[2];                    // of each vector, [width / 4][2][W], four bytes a lane
    std::vector<float> step[2];                        // of each vector, [2][W]
    std::vector<int32_t> origin[2];                    // of each vector, [2][W]

  private:
    int64_t first_, count_;

    std::vector<float> floats(const float* from, int64_t width) const {
        std::vector<float> to(width * vectors * W);
        for (int64_t lane = 0; lane < vectors * W && first_ + lane < count_; ++lane)
            for (int64_t d = 0; d < width; ++d) to[d * vectors * W + lane] = from[(first_ + lane) * width + d];
        return to;
    }

    std::vector<float> one(const float* from) const {
        return from == nullptr ? std::vector<float>(vectors * W) : floats(from, 1);
    }

    void pack_digits(const ScreenView& screen, const BoundView& bound) {
        const int64_t words = (screen.width + 3) / 4;
        for (int v = 0; v < (bound.digits == 2 ? vectors : 1); ++v)
            digits[v].resize(words * 2 * W), step[v].resize(2 * W), origin[v].resize(2 * W);
        for (int64_t lane = 0; lane < vectors * W && first_ + lane < count_; ++lane)
            for (int digit = 0; digit < bound.digits; ++digit) {
                // two digits of a vector side by side, or the first digits of both vectors
                const int v = bound.digits == 2 ? static_cast<int>(lane / W) : 0;
                const int64_t side = bound.digits == 2 ? digit : lane / W;
                pack_digit(screen, bound, first_ + lane, digit, v, side * W + lane % W);
            }
    }

    void pack_digit(const ScreenView& screen, const BoundView& bound, int64_t query, int digit, int v, int64_t at) {
        const int64_t width = screen.width, words = (width + 3) / 4;
        const auto* values = static_cast<const int8_t*>(bound.factors) + (2 * query + digit) * width;
        for (int64_t word = 0; word < words; ++word)
            std::memcpy(&digits[v][word * 2 * W + at], values + 4 * word, std::min<int64_t>(4, width - 4 * word));
        step[v][at] = bound.step[2 * query + digit];
        origin[v][at] = bound.origin[2 * query + digit];
    }
};

// The rows of a tile, the last of which may have to be copied: rows beyond the last are zero.
struct TileRows {
    const char *rows, *features;
    int64_t first, count;
};

// Upper logits of a tile, [kTile][VECTORS * lanes], but for what is excluded; -inf beyond the last row.
struct TileValues {
    float upper[kTile * 2 * kLanesOfScreen];
};

// Adds to products of some rows of a tile what stands beside them, and writes them to its values.
template <int VECTORS>
ORACLE_INLINE void finish_rows(const ScreenView& screen, const BoundView& bound, const PackedPair& packed, int64_t lane,
                               const TileRows& tile, int at, FloatVector (*sums)[VECTORS], TileValues& values) {
    constexpr int W = kLanesOfScreen;
    for (int r = 0; r < kRowsTogether; ++r) {
        const int64_t row = tile.first + at + r;
        const bool real = at + r < tile.count;
        const float norm = real && screen.half_norms != nullptr ? static_cast<float>(screen.half_norms[row]) : 0.0f;
        const float weight = real && screen.log_weights != nullptr ? static_cast<float>(screen.log_weights[row]) : 0.0f;
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            FloatVector upper = sums[r][v];
            if (screen.half_norms != nullptr) upper += broadcast(norm) * load(packed.norm_gain.data() + v * W) + weight;
            if (screen.shared != nullptr && real) {
                FloatVector products{};
                for (int k = 0; k < W && lane + v * W + k < bound.count; ++k)
                    products[k] = screen.shared[row * screen.shared_stride + bound.shared_column[lane + v * W + k]];
                upper += products * load(packed.shared_gain.data() + v * W);
            }
            upper += load(packed.slack.data() + v * W);
            store(values.upper + ((at + r) * VECTORS + v) * W, real ? upper : broadcast(kClosed));
        }
    }
}

template <int VECTORS>
ORACLE_APART void values_of_floats(const ScreenView& screen, const BoundView& bound, const PackedPair& packed,
                                   int64_t lane, const TileRows& tile, TileValues& values) {
    const float* rows = reinterpret_cast<const float*>(tile.rows);
    for (int at = 0; at < kTile; at += kRowsTogether) {
        FloatVector sums[kRowsTogether][VECTORS];
        multiply_floats<kRowsTogether, VECTORS>(rows + at * screen.stride, screen.stride, screen.width,
                                                packed.factors.data(), sums);
        finish_rows<VECTORS>(screen, bound, packed, lane, tile, at, sums, values);
    }
}

// The same for 8-bit codes and what stands beside them.
template <bool SIGNED, int VECTORS>
ORACLE_APART void values_of_codes(const ScreenView& screen, const BoundView& bound, const PackedPair& packed,
                                  int64_t lane, const TileRows& tile, TileValues& values) {
    constexpr int W = kLanesOfScreen;
    const uint8_t* rows = reinterpret_cast<const uint8_t*>(tile.rows);
    const float* features = reinterpret_cast<const float*>(tile.features);
    for (int at = 0; at < kTile; at += kRowsTogether) {
        FloatVector upper[kRowsTogether][VECTORS] = {};
        if (features != nullptr)
            multiply_floats<kRowsTogether, VECTORS>(features + at * screen.feature_stride, screen.feature_stride,
                                                    screen.feature_width, packed.gains.data(), upper);
        const int products = bound.digits == 2 ? VECTORS : 1;
        for (int v = 0; v < products; ++v) {
            FloatMask sums[kRowsTogether][2], origin[2];
            std::memcpy(origin, packed.origin[v].data(), sizeof origin);
            multiply_codes<SIGNED, kRowsTogether>(rows + at * screen.stride, screen.stride, screen.width,
                                                  packed.digits[v].data(), origin, sums);
            const FloatVector first = load(packed.step[v].data()), second = load(packed.step[v].data() + W);
#pragma GCC unroll 12
            for (int r = 0; r < kRowsTogether; ++r) {
                const FloatVector left = __builtin_convertvector(sums[r][0], FloatVector) * first;
                const FloatVector right = __builtin_convertvector(sums[r][1], FloatVector) * second;
                upper[r][v] += bound.digits == 2 ? left + right : left;
                if (bound.digits == 1 && VECTORS == 2) upper[r][VECTORS - 1] += right;
            }
        }
        finish_rows<VECTORS>(screen, bound, packed, lane, tile, at, upper, values);
    }
}

template <int VECTORS>
ORACLE_INLINE void values_of(const ScreenView& screen, const BoundView& bound, const PackedPair& packed, int64_t lane,
                             const TileRows& rows, TileValues& values) {
    switch (static_cast<Codes>(screen.codes)) {
        case Codes::f32: return values_of_floats<VECTORS>(screen, bound, packed, lane, rows, values);
        case Codes::i8: return values_of_codes<true, VECTORS>(screen, bound, packed, lane, rows, values);
        case Codes::u8: return values_of_codes<false, VECTORS>(screen, bound, packed, lane, rows, values);
    }
}

inline void tile_values(const ScreenView& screen, const BoundView& bound, const PackedPair& packed, int64_t lane,
                        const TileRows& rows, TileValues& values) {
    if (packed.vectors == 2)
        values_of<2>(screen, bound, packed, lane, rows, values);
    else
        values_of<1>(screen, bound, packed, lane, rows, values);
}

// The queries of a batch, packed for the products, and how many pairs of vectors stay in the second cache together.
struct PackedQueries {
    std::vector<PackedPair> pairs;
    int64_t block;

    PackedQueries(const ScreenView& screen, const BoundView& bound) {
        for (int64_t lane = 0; lane < bound.lanes(); lane += 2 * kLanesOfScreen)
            pairs.emplace_back(screen, bound, lane);
        const int64_t bytes = screen.width * (screen.codes == 0 ? 4 : bound.digits) * 2 * kLanesOfScreen;
        block = std::max<int64_t>(1, kQueryBytes / bytes);
    }

    // Calls work(tile, lane, pair) for all tiles of a share and all pairs of vectors.
    template <class Work>
    void visit(int64_t first, int64_t last, const Work& work) const {
        const int64_t count = static_cast<int64_t>(pairs.size());
        for (int64_t start = 0; start < count; start += block)
            for (int64_t tile = first; tile < last; ++tile)
                for (int64_t pair = start; pair < std::min(start + block, count); ++pair)
                    work(tile, pair * 2 * kLanesOfScreen, pairs[pair]);
    }
};

}  // namespace oracle
