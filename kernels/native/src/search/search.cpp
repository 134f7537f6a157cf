// The search: which rows can matter to each query, their states, and what all others hold at most.
#include "rescore/weigh.hpp"
#include "screens/tile_sums.hpp"
#include "search/mattering.hpp"

namespace oracle {
namespace {

// floor of queries without a row that counts: finite, so that differences of infinities do not arise
constexpr double kLowestFloor = -1e38;

// sums of float32 terms, and below which they would vanish
constexpr double kSumError = 1.0 + 1e-4, kLeastSum = 1e-300;

// what rounding may lose of what logits share, and of the log-partition that it is held against, in such of a point
constexpr double kLostTwice = 2.0;

// what the product of a query with a whole row costs, which comes from memory, in such of one with a direction of the
// basis, which stays in the cache: measured
constexpr int64_t kWholeRow = 8;

constexpr float kNever = std::numeric_limits<float>::infinity();

class Search {
  public:
    explicit Search(const SearchAsked& asked)
        : asked_(asked),
          queries_(asked),
          tiles_(asked, queries_),
          whole_(asked, queries_),
          batch_(asked.queries.count),
          partition_(batch_, kNothing),
          mass_(batch_),
          omitted_(batch_, kNothing),
          floors_(queries_.lanes(), kNever),
          kept_(batch_) {}

    void run() {
        bound();
        std::vector<Visited> visited = tiles_.visit(floors_.data());
        while (more_coordinates_pay(visited)) {
            queries_.project_block();
            tiles_.narrow(visited, floors_.data());
        }
        score(visited);
        write();
    }

  private:
    const SearchAsked& asked_;
    SearchQueries queries_;
    SearchTiles tiles_;
    WholeRows whole_;
    int64_t batch_;
    std::vector<double> partition_, mass_, omitted_;  // [B]
    std::vector<float> floors_;                       // [lanes]
    std::vector<Kept> kept_;                          // [B]

    int threads() const { return usable_threads(asked_.threads); }

    // Whether projecting all queries on one more block costs less than scoring all rows that are left whole.
    bool more_coordinates_pay(const std::vector<Visited>& visited) const {
        const int64_t block = queries_.projected();
        if (block == asked_.blocks) return false;
        size_t rows = 0;
        for (const Visited& share : visited) rows += share.rows.size();
        const int64_t width = asked_.edges[block + 1] - asked_.edges[block];
        return static_cast<int64_t>(rows) * kWholeRow > batch_ * width;
    }

    // Bounds all rows, and closes the tiles that the most promising row of each query proves to hold nothing.
    void bound() {
        std::vector<int64_t> promising(queries_.lanes()), open(queries_.lanes());
        std::vector<double> below(queries_.lanes());
        tiles_.bound_all(promising.data());
        const double rows = std::log(static_cast<double>(asked_.stop - asked_.start));
        share_out(threads(), batch_, [&](int64_t b) {
            partition_[b] = whole_.least_partition(b, promising[b], mass_[b]);
            double floor = partition_[b] + std::log(std::max(mass_[b], 1e-300)) - rows;
            // rounded down: comparisons and exponentials are in float32
            floor = std::max(floor - 0x1p-22 * std::fabs(floor), kLowestFloor);
            floors_[b] = static_cast<float>(floor);
        });
        tiles_.close(floors_.data(), open.data(), below.data());
        for (int64_t b = 0; b < batch_; ++b) {
            asked_.opened[b] = open[b];
            asked_.found[b] = !queries_.hopeless[b] && open[b] <= asked_.most_tiles;
            omitted_[b] = floors_[b] + std::log(below[b] * kSumError + kLeastSum);
            if (!asked_.found[b]) floors_[b] = kNever;
        }
    }

    // Scores what is left of each query whole, and keeps what still matters.
    void score(const std::vector<Visited>& visited) {
        std::vector<const MatteringRow*> promising(batch_, nullptr);
        for (const Visited& share : visited)
            for (const MatteringRow& one : share.rows)
                if (const MatteringRow*& best = promising[one.query]; best == nullptr || one.upper > best->upper)
                    best = &one;
        share_out(threads(), batch_, [&](int64_t b) {
            double below = 0.0;
            for (const Visited& share : visited) below += share.below[b];
            omitted_[b] = log_sum(omitted_[b], floors_[b] + std::log(below * kSumError + kLeastSum));
            kept_[b].best = partition_[b], kept_[b].mass = mass_[b];
            whole_.raise(promising[b], kept_[b]);
        });
        score_in_order(visited);
        for (int64_t b = 0; b < batch_; ++b) {
            if (!asked_.found[b]) continue;
            whole_.leave_out(kept_[b]);
            omitted_[b] = log_sum(omitted_[b], kept_[b].log_omitted);
        }
    }

    // Counts the rows that reach the raised floors, and leaves queries with too many of them to a scan.
    void close_rows(const std::vector<Visited>& visited) {
        for (const Visited& share : visited)
            for (const MatteringRow& one : share.rows) {
                Kept& kept = kept_[one.query];
                if (one.upper >= kept.floor)
                    ++asked_.scored[one.query];
                else
                    kept.below += small_weight(one.upper - kept.floor);
            }
        for (int64_t b = 0; b < batch_; ++b) asked_.found[b] &= asked_.scored[b] <= asked_.most_rows;
    }

    // Scores rows in the order in which they lie: many of them for several queries.
    void score_in_order(const std::vector<Visited>& visited) {
        struct Scored {
            const MatteringRow* row;
            double upper, least;
        };
        std::vector<Scored> rows;
        close_rows(visited);
        for (const Visited& share : visited)
            for (const MatteringRow& one : share.rows)
                if (asked_.found[one.query] && one.upper >= kept_[one.query].floor) rows.push_back({&one, 0.0, 0.0});
        const int64_t count = static_cast<int64_t>(rows.size()), parts = threads();
        share_out(parts, parts, [&](int64_t part) {
            const int64_t stop = count * (part + 1) / parts;
            for (int64_t k = count * part / parts; k < stop; ++k) {
                if (k + 1 < stop && rows[k + 1].row->row != rows[k].row->row) whole_.ask_for(rows[k + 1].row->row);
                rows[k].upper = whole_.upper(*rows[k].row, rows[k].least);
            }
        });
        for (const Scored& one : rows) {
            Kept& kept = kept_[one.row->query];
            kept.best = std::max(kept.best, one.least);
            kept.rows.push_back(one.row->row), kept.upper.push_back(one.upper);
        }
    }

    // Writes the states of the rows that were kept, and what is known of the others.
    void write() {
        std::vector<int64_t> first = {0}, row;
        for (int64_t b = 0; b < batch_; ++b) {
            if (asked_.found[b]) row.insert(row.end(), kept_[b].rows.begin(), kept_[b].rows.end());
            asked_.survivors[b] = static_cast<int64_t>(row.size()) - first.back();
            first.push_back(static_cast<int64_t>(row.size()));
            // what all logits of a query share, at most: see common_term in kernels/screens/searches/shortlist.py
            const double shared = -0.5 * queries_.asked().inverse_variance[b] * queries_.squares(b);
            const double common = shared + kLostTwice * queries_.point_error(b);
            asked_.log_omitted[b] = asked_.found[b] ? omitted_[b] + common : -kNothing;
        }
        if (row.empty()) return;
        const ListsView lists = {first.data(), row.data(), threads()};
        weigh_lists(*asked_.rows, queries_.in_stored_coordinates(), *asked_.digits, lists, asked_.out);
    }
};

}  // namespace
}  // namespace oracle

using namespace oracle;

// Answers what is asked. Returns 0, or 1 where memory is short.
ORACLE_EXPORT int oracle_search(const SearchAsked* asked) {
    try {
        Search(*asked).run();
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
