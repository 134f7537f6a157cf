// One level of a screen: tile maxima of upper logits, the most promising rows, and the rows that may matter.
#include <new>

#include "screens/screen_tiles.hpp"
#include "screens/tile_sums.hpp"

namespace oracle {
namespace {

// queries of which the most promising rows are not worth sharing out
constexpr int64_t kFewPromising = 8;

// lanes of two vectors from which on all of them are multiplied again, rather than one after the other
constexpr int64_t kDense = 5;

// the largest number of two digits, and what rounds to whole numbers
constexpr double kLargest = 127.0 * 128.0 + 63.0, kRounding = 6755399441055744.0;

// What is known of the tiles from the level before: tiles below the floor of a query are closed to it.
struct Before {
    const float *largest, *floor;  // [T, lanes], [lanes]; null for the first level

    bool open(int64_t tile, int64_t lanes, int64_t lane) const {
        return largest == nullptr || largest[tile * lanes + lane] >= floor[lane];
    }
    bool any_open(int64_t tile, int64_t lanes, int64_t first, int64_t count) const {
        for (int64_t lane = first; lane < first + count; ++lane)
            if (open(tile, lanes, lane)) return true;
        return false;
    }
};

// Room for the rows of a tile, which the last one has too few of.
class LastTile {
  public:
    explicit LastTile(const ScreenView& screen) : screen_(screen) {}

    TileRows at(int64_t tile) {
        const int64_t first = screen_.start + tile * kTile, count = std::min<int64_t>(kTile, screen_.stop - first);
        const int64_t bytes = screen_.codes == 0 ? 4 : 1;
        const char* rows = static_cast<const char*>(screen_.rows) + first * screen_.stride * bytes;
        const char* features = reinterpret_cast<const char*>(screen_.features);
        if (features != nullptr) features += first * screen_.feature_stride * 4;
        if (count == kTile) return {rows, features, first, count};
        rows = copied(rows, count, screen_.stride * bytes, screen_.width * bytes, rows_);
        if (features != nullptr)
            features = copied(features, count, screen_.feature_stride * 4, screen_.feature_width * 4, features_);
        return {rows, features, first, count};
    }

  private:
    const ScreenView& screen_;
    std::vector<char> rows_, features_;

    static const char* copied(const char* from, int64_t count, int64_t stride, int64_t bytes, std::vector<char>& room) {
        room.assign(kTile * stride, 0);
        for (int64_t r = 0; r < count; ++r) std::memcpy(room.data() + r * stride, from + r * stride, bytes);
        return room.data();
    }
};

// The largest upper logits of a share of the tiles.
class TileMaxima {
  public:
    TileMaxima(const ScreenView& screen, const BoundView& bound, const Before& before, float* largest)
        : screen_(screen), bound_(bound), before_(before), largest_(largest), queries_(screen, bound) {}

    void share(int64_t first, int64_t last) const {
        LastTile rows(screen_);
        queries_.visit(first, last,
                       [&](int64_t tile, int64_t lane, const PackedPair& packed) { write(tile, lane, packed, rows); });
    }

    // Takes out what does not count for a query: ranges of rows.
    void exclude(int64_t query) const {
        const int64_t* range = bound_.excluded + 2 * query * bound_.ranges;
        for (int64_t h = 0; h < bound_.ranges; ++h, range += 2) {
            const int64_t start = std::max(range[0], screen_.start), stop = std::min(range[1], screen_.stop);
            for (int64_t row = start; row < stop;) {
                const int64_t tile = (row - screen_.start) / kTile, next = screen_.start + (tile + 1) * kTile;
                float& largest = largest_[tile * bound_.lanes() + query];
                const bool whole = row == next - kTile && std::min(next, screen_.stop) <= stop;
                if (largest > kClosed) largest = whole ? kClosed : without(tile, query);
                row = next;
            }
        }
    }

  private:
    const ScreenView& screen_;
    const BoundView& bound_;
    const Before& before_;
    float* largest_;
    PackedQueries queries_;

    float without(int64_t tile, int64_t query) const {
        float upper[kTile];
        tile_for_one(screen_, bound_, tile, query, upper);
        return *std::max_element(upper, upper + kTile);
    }

    void write(int64_t tile, int64_t lane, const PackedPair& packed, LastTile& room) const {
        constexpr int W = kLanesOfScreen;
        const int64_t lanes = bound_.lanes(), some = packed.vectors * W;
        float* to = largest_ + tile * lanes + lane;
        std::fill(to, to + some, kClosed);
        if (!before_.any_open(tile, lanes, lane, some)) return;
        TileValues values;
        tile_values(screen_, bound_, packed, lane, room.at(tile), values);
        for (int r = 0; r < kTile; ++r)
            for (int64_t k = 0; k < some; k += W) {
                const FloatVector upper = load(values.upper + r * some + k), known = load(to + k);
                store(to + k, select<float>(upper > known, upper, known));
            }
        for (int64_t k = 0; before_.largest != nullptr && k < some; ++k)
            if (!before_.open(tile, lanes, lane + k)) to[k] = kClosed;
    }
};

// The row with the largest upper logit of each of the `most` tiles whose maxima are the largest; -1 for none.
void promising_rows(const ScreenView& screen, const BoundView& bound, const float* largest, int64_t query, int64_t most,
                    int64_t* row) {
    std::vector<float> best(most, kClosed), upper(kTile);
    std::vector<int64_t> tiles(most, -1);
    for (int64_t tile = 0; tile < screen.tiles(); ++tile) {
        const float one = largest[tile * bound.lanes() + query];
        if (!(one > best[most - 1])) continue;
        int64_t place = most - 1;
        for (; place > 0 && one > best[place - 1]; --place)
            best[place] = best[place - 1], tiles[place] = tiles[place - 1];
        best[place] = one, tiles[place] = tile;
    }
    for (int64_t k = 0; k < most; ++k) {
        row[k] = -1;
        if (tiles[k] < 0) continue;
        tile_for_one(screen, bound, tiles[k], query, upper.data());
        const auto top = std::max_element(upper.begin(), upper.end());
        if (*top > kClosed) row[k] = screen.start + tiles[k] * kTile + (top - upper.begin());
    }
}

// A level by which single rows are looked at again, or none: null.
struct Finer {
    const ScreenView* screen;
    const BoundView* bound;
};

// The rows of open tiles that reach the floors of their queries, tile by tile.
class RowsAbove {
  public:
    struct Found {
        int64_t query, row;
        float upper;
    };
    std::vector<Found> found;
    std::vector<double> below;  // [B], relative to the floors

    RowsAbove(const ScreenView& screen, const BoundView& bound, const Finer& finer, const float* largest,
              const float* floor)
        : below(bound.count), screen_(screen), bound_(bound), finer_(finer), largest_(largest), floor_(floor) {}

    void share(const PackedQueries& queries, int64_t first, int64_t last) {
        LastTile rows(screen_);
        queries.visit(first, last,
                      [&](int64_t tile, int64_t lane, const PackedPair& packed) { look(tile, lane, packed, rows); });
    }

  private:
    const ScreenView& screen_;
    const BoundView& bound_;
    const Finer& finer_;
    const float *largest_, *floor_;

    void look(int64_t tile, int64_t lane, const PackedPair& packed, LastTile& room) {
        const int64_t some = packed.vectors * kLanesOfScreen;
        const float* largest = largest_ + tile * bound_.lanes() + lane;
        int64_t open[2 * kLanesOfScreen], count = 0;
        for (int64_t k = 0; k < some; ++k)
            if (largest[k] >= floor_[lane + k]) open[count++] = k;
        if (count == 0) return;
        if (count < kDense || excluding()) {
            float upper[kTile];
            for (int64_t k = 0; k < count; ++k) {
                tile_for_one(screen_, bound_, tile, lane + open[k], upper);
                sort_out(tile, lane + open[k], upper, 1);
            }
            return;
        }
        TileValues values;
        tile_values(screen_, bound_, packed, lane, room.at(tile), values);
        for (int64_t k = 0; k < count; ++k) sort_out(tile, lane + open[k], values.upper + open[k], some);
    }

    // vectors of queries know nothing of excluded rows
    bool excluding() const { return bound_.ranges > 0; }

    void sort_out(int64_t tile, int64_t query, const float* values, int64_t step) {
        constexpr int W = kLanesOfScreen, ROOM = (kTile + W - 1) / W * W;
        const float floor = floor_[query];
        const int64_t first = screen_.start + tile * kTile;
        float upper[ROOM];
        std::fill(upper, upper + ROOM, kClosed);
        for (int r = 0; r < kTile; ++r) {
            upper[r] = values[r * step];
            if (!(upper[r] >= floor)) continue;
            if (finer_.screen != nullptr) upper[r] = finer(first + r, query, upper[r]);
            if (upper[r] >= floor) found.push_back({query, first + r, upper[r]});
        }
        FloatVector sum{};
        for (int r = 0; r < ROOM; r += W) {
            const FloatVector gap = load(upper + r) - floor;
            sum += select<float>(gap < FloatVector{}, weights_below(gap), FloatVector{});
        }
        below[query] += sum_of(sum);
    }

    float finer(int64_t row, int64_t query, float upper) const {
        float found;
        upper_for_one<1>(*finer_.screen, *finer_.bound, row, query, &found);
        return std::min(found, upper);
    }
};

// Writes what the shares found in the order of queries; returns whether there was room.
bool gather(const std::vector<RowsAbove>& shares, int64_t count, int64_t room, int64_t* first, int64_t* row,
            double* upper, double* below) {
    std::fill(first, first + count + 1, 0);
    for (const RowsAbove& share : shares)
        for (const auto& one : share.found) ++first[one.query + 1];
    for (int64_t query = 0; query < count; ++query) first[query + 1] += first[query];
    if (first[count] > room) return false;
    std::vector<int64_t> next(first, first + count);
    for (const RowsAbove& share : shares) {
        for (const auto& one : share.found) {
            const int64_t place = next[one.query]++;
            row[place] = one.row, upper[place] = one.upper;
        }
        for (int64_t query = 0; query < count; ++query) below[query] += share.below[query];
    }
    return true;
}

// sums that are taken side by side, so that they fit vectors
constexpr int kSums = 8;

double total(const double (&sums)[kSums]) {
    double sum = 0.0;
    for (const double one : sums) sum += one;
    return sum;
}

double largest_of(const double* values, int64_t count) {
    double largest[kSums] = {};
    int64_t d = 0;
    for (; d + kSums <= count; d += kSums)
        for (int k = 0; k < kSums; ++k) largest[k] = std::max(largest[k], std::fabs(values[d + k]));
    for (; d < count; ++d) largest[0] = std::max(largest[0], std::fabs(values[d]));
    return *std::max_element(largest, largest + kSums);
}

// What two digits of values leave of them, squared, and their products with a centre, of each digit.
struct TwoDigitSums {
    double worth, inverse;
    double centres[2][kSums] = {}, squares[2][kSums] = {};

    explicit TwoDigitSums(double step) : worth(step), inverse(1.0 / step) {}

    void add(double value, double centre, int8_t& high, int8_t& low, int k) {
        // adding and subtracting 1.5 * 2^52 rounds to a whole number
        const double whole = (value * inverse + kRounding) - kRounding, left = value - whole * worth;
        const int32_t both = static_cast<int32_t>(whole), first = (both + 64) >> 7, second = both - first * 128;
        high = static_cast<int8_t>(first), low = static_cast<int8_t>(second);
        centres[0][k] += first * centre, centres[1][k] += second * centre;
        squares[0][k] += (left + second * worth) * (left + second * worth), squares[1][k] += left * left;
    }
};

}  // namespace
}  // namespace oracle

using namespace oracle;

// largest = the largest upper logit of each tile, [T, lanes]; closed ones of the level before, and lanes without a
// query, are -inf. previous, floor: of that level, [T, lanes] and [lanes], or null. Returns 0, or 1 where memory is
// short.
ORACLE_EXPORT int oracle_screen_maxima(const ScreenView* screen, const BoundView* bound, const float* previous,
                                       const float* floor, float* largest) {
    const int64_t tiles = screen->tiles(), lanes = bound->lanes();
    const int64_t threads = worth(usable_threads(bound->threads), 2.0 * tiles * kTile * lanes * screen->width);
    const Before before = {previous, floor};
    try {
        const TileMaxima maxima(*screen, *bound, before, largest);
        share_out(threads, threads,
                  [&](int64_t share) { maxima.share(tiles * share / threads, tiles * (share + 1) / threads); });
        for (int64_t query = 0; query < bound->count; ++query) maxima.exclude(query);
        for (int64_t tile = 0; tile < tiles; ++tile)
            std::fill(largest + tile * lanes + bound->count, largest + (tile + 1) * lanes, kClosed);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// row = the most promising rows of each query, [B, most], -1 for none.
ORACLE_EXPORT int oracle_screen_promising(const ScreenView* screen, const BoundView* bound, const float* largest,
                                          int64_t most, int64_t* row) {
    const int64_t threads = bound->count > kFewPromising ? usable_threads(bound->threads) : 1;
    try {
        share_out_many(threads, bound->count, [&](int64_t query) {
            promising_rows(*screen, *bound, largest, query, most, row + query * most);
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// open, below = how many tiles of each query reach its floor, [lanes], and the upper weights of all others relative to
// it, [B].
ORACLE_EXPORT int oracle_screen_close(const ScreenView* screen, const BoundView* bound, const float* largest,
                                      const float* floor, int64_t* open, double* below) {
    const TileMaximaView maxima = {largest, screen->tiles(), bound->lanes()};
    for (int64_t lane = 0; lane < bound->count; lane += kLanesOfScreen)
        close_tiles(maxima, floor, lane, std::min<int64_t>(kLanesOfScreen, bound->count - lane), open, below);
    return 0;
}

// row, upper = the rows of each query that reach its floor and their upper logits, [room], from first[query] on,
// [B + 1]; queries that are left out have an infinite floor. finer, finer_bound: a level that is asked about each row
// that reaches it, or null. Adds to `below` what others hold. Returns 2 where there is too little room.
ORACLE_EXPORT int oracle_screen_rows(const ScreenView* screen, const BoundView* bound, const ScreenView* finer,
                                     const BoundView* finer_bound, const float* largest, const float* floor,
                                     int64_t room, int64_t* first, int64_t* row, double* upper, double* below) {
    const int64_t threads = usable_threads(bound->threads), tiles = screen->tiles();
    const Finer level = {finer, finer_bound};
    try {
        const PackedQueries queries(*screen, *bound);
        std::vector<RowsAbove> shares(threads, RowsAbove(*screen, *bound, level, largest, floor));
        share_out(threads, threads, [&](int64_t share) {
            shares[share].share(queries, tiles * share / threads, tiles * (share + 1) / threads);
        });
        if (!gather(shares, bound->count, room, first, row, upper, below)) return 2;
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// Two digits of seven bits and a sign, [B, 2, D], for the values factor * point, [B] and [B, D]: what each is worth,
// [B, 2], what sums with unsigned bytes begin with so that `centre`, [D], is taken off them, and the norm of what
// one and two digits leave of the values, [B, 2].
ORACLE_EXPORT int oracle_screen_digits(const double* point, const double* factor, const double* centre, int64_t count,
                                       int64_t dim, int8_t* digits, int32_t* origin, float* step, double* rest) {
    for (int64_t query = 0; query < count; ++query) {
        int8_t* high = digits + 2 * query * dim;
        const double *values = point + query * dim, worth = std::max(largest_of(values, dim), 1e-300) / kLargest;
        TwoDigitSums sums(worth);
        int64_t d = 0;
        for (; d + kSums <= dim; d += kSums)
            for (int k = 0; k < kSums; ++k) sums.add(values[d + k], centre[d + k], high[d + k], high[dim + d + k], k);
        for (; d < dim; ++d) sums.add(values[d], centre[d], high[d], high[dim + d], 0);
        const double unit = factor[query];
        for (int digit = 0; digit < 2; ++digit) {
            origin[2 * query + digit] = static_cast<int32_t>(-total(sums.centres[digit]));
            step[2 * query + digit] = static_cast<float>((digit == 0 ? 128.0 : 1.0) * worth * unit);
            rest[2 * query + digit] = std::fabs(unit) * std::sqrt(total(sums.squares[digit]));
        }
    }
    return 0;
}
