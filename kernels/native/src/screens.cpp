// One level of a screen: tile maxima of upper logits, the most promising rows, and the rows that may matter.
#include "screen_tiles.hpp"

#include <new>

namespace oracle {
namespace {

// multiplications below which a second thread costs more than it saves
constexpr int64_t kWorthSharing = 1 << 20;

// upper weights relative to a floor are never taken as less than this: zeros would be no bound
constexpr float kLeastExponent = -80.0f;

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
        : screen_(screen), bound_(bound), before_(before), largest_(largest) {
        for (int64_t lane = 0; lane < bound.lanes(); lane += 2 * kLanesOfScreen) pairs_.emplace_back(screen, bound, lane);
    }

    void share(int64_t first, int64_t last) const {
        const int64_t bytes = screen_.width * (screen_.codes == 0 ? 4 : 2) * 2 * kLanesOfScreen;
        const int64_t block = std::max<int64_t>(1, kQueryBytes / bytes), count = static_cast<int64_t>(pairs_.size());
        LastTile rows(screen_);
        for (int64_t start = 0; start < count; start += block)
            for (int64_t tile = first; tile < last; ++tile)
                for (int64_t pair = start; pair < std::min(start + block, count); ++pair)
                    write(tile, pair * 2 * kLanesOfScreen, pairs_[pair], rows);
    }

    // Takes out what does not count for a query: ranges of rows, and tiles that are closed to it.
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
    std::vector<PackedPair> pairs_;

    float without(int64_t tile, int64_t query) const {
        float upper[kTile];
        tile_for_one(screen_, bound_, tile, query, upper);
        return *std::max_element(upper, upper + kTile);
    }

    void write(int64_t tile, int64_t lane, const PackedPair& packed, LastTile& room) const {
        constexpr int W = kLanesOfScreen;
        const int64_t lanes = bound_.lanes();
        float* to = largest_ + tile * lanes + lane;
        std::fill(to, to + packed.vectors * W, kClosed);
        if (!before_.any_open(tile, lanes, lane, packed.vectors * W)) return;
        FloatVector found[2] = {broadcast(kClosed), broadcast(kClosed)};
        if (packed.vectors == 2)
            multiply<2>(packed, lane, room.at(tile), found);
        else
            multiply<1>(packed, lane, room.at(tile), found);
        for (int64_t k = 0; k < packed.vectors * W; ++k)
            if (before_.open(tile, lanes, lane + k)) to[k] = found[k / W][k % W] + packed.slack[k];
    }

    template <int VECTORS>
    void multiply(const PackedPair& packed, int64_t lane, const TileRows& rows, FloatVector* found) const {
        switch (static_cast<Codes>(screen_.codes)) {
            case Codes::f32: return largest_of_floats<VECTORS>(screen_, bound_, packed, lane, rows, found);
            case Codes::i8: return largest_of_codes<true, VECTORS>(screen_, bound_, packed, lane, rows, found);
            case Codes::u8: return largest_of_codes<false, VECTORS>(screen_, bound_, packed, lane, rows, found);
        }
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
        for (; place > 0 && one > best[place - 1]; --place) best[place] = best[place - 1], tiles[place] = tiles[place - 1];
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

// How many tiles reach the floor of a query, and the sum of upper weights in all others, relative to the floor.
void close_tiles(const ScreenView& screen, const BoundView& bound, const float* largest, const float* floors,
                 int64_t lane, int64_t* open, double* below) {
    constexpr int W = kLanesOfScreen;
    const FloatVector floor = load(floors + lane);
    FloatMask count{};
    double total[W] = {};
    for (int64_t first = 0; first < screen.tiles(); first += 64) {
        FloatVector sum{};
        for (int64_t tile = first; tile < std::min(first + 64, screen.tiles()); ++tile) {
            FloatVector gap = load(largest + tile * bound.lanes() + lane) - floor;
            const FloatMask reached = gap >= FloatVector{};
            count -= reached;
            gap = select<float>(gap < broadcast(kLeastExponent), broadcast(kLeastExponent), gap);
            sum += select<float>(reached, FloatVector{}, exponential(gap));
        }
        for (int k = 0; k < W; ++k) total[k] += sum[k];
    }
    for (int k = 0; k < W && lane + k < bound.count; ++k) open[lane + k] = count[k], below[lane + k] = kTile * total[k];
}

// Writes the rows of open tiles at or above the floor of a query, adds the others to `below`; returns how many.
int64_t rows_above(const ScreenView& screen, const BoundView& bound, const float* largest, const float* floors,
                   int64_t query, int64_t* row, double* below) {
    int64_t found = 0;
    float upper[kTile];
    for (int64_t tile = 0; tile < screen.tiles(); ++tile) {
        if (!(largest[tile * bound.lanes() + query] >= floors[query])) continue;
        tile_for_one(screen, bound, tile, query, upper);
        const int64_t first = screen.start + tile * kTile;
        for (int r = 0; r < kTile; ++r) {
            if (upper[r] >= floors[query])
                row[found++] = first + r;
            else if (upper[r] > kClosed)
                *below += std::exp(std::max(upper[r] - floors[query], kLeastExponent));
        }
    }
    return found;
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// largest = the largest upper logit of each tile, [T, lanes]; closed ones of the level before, and lanes without a
// query, are -inf. previous, floor: of that level, [T, lanes] and [lanes], or null. Returns 0, or 1 where memory is
// short.
ORACLE_EXPORT int oracle_screen_maxima(const ScreenView* screen, const BoundView* bound, const float* previous,
                                       const float* floor, float* largest) {
    const int64_t tiles = screen->tiles(), lanes = bound->lanes();
    const bool parallel = tiles * kTile * lanes * screen->width > kWorthSharing;
    const int64_t threads = parallel ? usable_threads(bound->threads) : 1;
    const Before before = {previous, floor};
    int short_of_memory = 0;
    try {
        const TileMaxima maxima(*screen, *bound, before, largest);
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(| : short_of_memory)
        for (int64_t share = 0; share < threads; ++share) try {
                maxima.share(tiles * share / threads, tiles * (share + 1) / threads);
            } catch (const std::bad_alloc&) {
                short_of_memory |= 1;
            }
        for (int64_t query = 0; query < bound->count; ++query) maxima.exclude(query);
        for (int64_t tile = 0; tile < tiles; ++tile)
            std::fill(largest + tile * lanes + bound->count, largest + (tile + 1) * lanes, kClosed);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return short_of_memory;
}

// row = the most promising rows of each query, [B, most], -1 for none.
ORACLE_EXPORT int oracle_screen_promising(const ScreenView* screen, const BoundView* bound, const float* largest,
                                          int64_t most, int64_t* row) {
    const int64_t threads = usable_threads(bound->threads);
    int short_of_memory = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : short_of_memory) if (bound->count > 8)
    for (int64_t query = 0; query < bound->count; ++query) try {
            promising_rows(*screen, *bound, largest, query, most, row + query * most);
        } catch (const std::bad_alloc&) {
            short_of_memory |= 1;
        }
    return short_of_memory;
}

// open, below = how many tiles of each query reach its floor, [lanes], and the upper weights of all others relative to
// it, [B].
ORACLE_EXPORT int oracle_screen_close(const ScreenView* screen, const BoundView* bound, const float* largest,
                                      const float* floor, int64_t* open, double* below) {
    for (int64_t lane = 0; lane < bound->lanes(); lane += kLanesOfScreen)
        close_tiles(*screen, *bound, largest, floor, lane, open, below);
    return 0;
}

// row = the rows of each query that reach its floor, packed, [first[B]]; first: where there is room for those of a
// query, [B + 1], none for queries that are left out; afterwards where they are. Adds to `below` what others hold.
ORACLE_EXPORT int oracle_screen_rows(const ScreenView* screen, const BoundView* bound, const float* largest,
                                     const float* floor, int64_t* first, int64_t* row, double* below) {
    const int64_t threads = usable_threads(bound->threads), count = bound->count;
    try {
        std::vector<int64_t> found(count);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (first[count] > 256)
        for (int64_t query = 0; query < count; ++query)
            if (first[query] < first[query + 1])
                found[query] = rows_above(*screen, *bound, largest, floor, query, row + first[query], below + query);
        int64_t end = 0;
        for (int64_t query = 0; query < count; ++query) {
            std::memmove(row + end, row + first[query], found[query] * sizeof(int64_t));
            first[query] = end, end += found[query];
        }
        first[count] = end;
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
