// Products with posterior covariances, sum_j gamma_j (r_j - m) s_j, in one pass in float64 from differences.
#include "core/directions.hpp"
#include "core/queries.hpp"
#include "differences/block_logits.hpp"
#include "rescore/lists.hpp"
#include "rescore/weighted.hpp"
#include "scans/steps.hpp"

namespace oracle {
namespace {

// first[r] = <g, row_r - m> and second[r] = |row_r - m|^2 of R rows.
template <class T, int R>
ORACLE_INLINE void changes(const T* const* row, const double* mean, const double* vector, int64_t dim, double* first,
                           double* second) {
    Wide products[R] = {}, squares[R] = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
        const Wide middle = wide(mean + d), along = wide(vector + d);
        for (int r = 0; r < R; ++r) {
            const Wide spread = wide(row[r] + d) - middle;
            products[r] = fused(along, spread, products[r]);
            squares[r] = fused(spread, spread, squares[r]);
        }
    }
    if (d < dim) {
        const Wide middle = wide_some(mean + d, dim - d), along = wide_some(vector + d, dim - d);
        for (int r = 0; r < R; ++r) {
            const Wide spread = wide_some(row[r] + d, dim - d) - middle;
            products[r] = fused(along, spread, products[r]);
            squares[r] = fused(spread, spread, squares[r]);
        }
    }
    for (int r = 0; r < R; ++r) {
        first[r] = lane_sum(products[r]);
        second[r] = lane_sum(squares[r]);
    }
}

// The same of all rows of a packed block.
void packed_changes(const Packed& block, const double* mean, const double* vector, double* first, double* second) {
    for (int64_t i = 0; i < block.width; i += kLanes) {
        Wide products = {}, squares = {};
        for (int64_t d = 0; d < block.dim; ++d) {
            const Wide spread = wide(block.values + d * block.width + i) - mean[d];
            products = fused(broadcast(vector[d]), spread, products);
            squares = fused(spread, spread, squares);
        }
        store(first + i, products);
        store(second + i, squares);
    }
}

// The product of one query, in `total`.
template <class T>
class OneProduct {
  public:
    OneProduct(const DirectionsView& directions, int64_t query, int64_t dim, double* total)
        : directions_(directions), query_(query), dim_(dim), total_(total) {}

    double weight(double high, double low) const {
        return std::exp((high - directions_.lse[query_]) + (low - directions_.lse_rest[query_]));
    }

    Wide weights(Wide high, Wide low) const {
        return exponential((high - directions_.lse[query_]) + (low - directions_.lse_rest[query_]));
    }

    // takes rows in, several at a time; the last ones by finish()
    void add(const T* row, double weight) {
        if (weight < kNoShare) return;
        row_[held_] = row;
        weight_[held_++] = weight;
        if (held_ == kAbreast) add_held<kAbreast>(0);
    }
    void finish() {
        const int last = held_;
        for (int r = 0; r < last; ++r) add_held<1>(r);
    }

    // takes in all rows of a packed block with the weights `weight`; uses up room of twice their number
    void add_packed(const Packed& block, const double* weight, double* room) {
        packed_changes(block, mean(), vector(), room, room + block.width);
        for (int64_t i = 0; i < block.width; ++i)
            room[i] = weight[i] == 0.0 ? 0.0 : weight[i] * change(room[i], room[i + block.width]);
        add_block(block, room, mean(), total_);
    }

  private:
    const double* mean() const { return directions_.mean + query_ * dim_; }
    const double* vector() const { return directions_.vector + query_ * dim_; }
    double change(double first, double second) const {
        return directions_.curvature == nullptr ? first : first - 0.5 * directions_.curvature[query_] * second;
    }

    template <int R>
    void add_held(int from) {
        double first[R], second[R];
        changes<T, R>(row_ + from, mean(), vector(), dim_, first, second);
        for (int r = 0; r < R; ++r) first[r] = weight_[from + r] * change(first[r], second[r]);
        add_rows<T, R>(row_ + from, first, mean(), dim_, total_);
        held_ -= R;
    }

    const DirectionsView& directions_;
    int64_t query_, dim_;
    double* total_;
    int held_ = 0;
    const T* row_[kAbreast];
    double weight_[kAbreast];
};

// Takes in a block of rows whose logits it has.
template <class T>
void add_rows_of(BlockLogits<T>& block, const RowsView& rows, OneProduct<T>& product, double* room) {
    for (int64_t i = 0; i < block.width; i += kLanes)
        store(&block.logit[i], product.weights(wide(&block.logit[i]), wide(&block.low[i])));
    if (rows.dim < kNarrow) return product.add_packed(block.block(), block.logit.data(), room);
    for (int64_t i = 0; i < block.count; ++i) product.add(row_of<T>(rows, block.start + i), block.logit[i]);
    product.finish();
}

// Products over rows [start, stop) for the queries [first, last).
template <class T>
void product_share(const Question& question, const DirectionsView& directions, int64_t share, int64_t start,
                   int64_t stop, int64_t first, int64_t last) {
    const int64_t dim = question.rows.dim;
    BlockLogits<T> block(question, last - first);
    std::vector<double> room(2 * block.width);
    double* totals = directions.total + share * question.queries.count * dim;
    for (int64_t at = start; at < stop; at += block.width) {
        block.read(at, stop);
        for (int64_t query = first; query < last; ++query) {
            if ((query - first) % kTileQueries == 0)
                block.measure(query, std::min<int64_t>(kTileQueries, last - query));
            const double largest = block.score(query, (query - first) % kTileQueries);
            if (!block.weighs(query, largest, directions.lse[query])) continue;
            block.refine(query, directions.lse[query]);
            OneProduct<T> product(directions, query, dim, totals + query * dim);
            add_rows_of(block, question.rows, product, room.data());
        }
    }
}

// Products over lists of rows.
template <class T>
void product_lists(const Question& question, const DirectionsView& directions, const ListsView& lists, double* high,
                   double* low) {
    const int64_t dim = question.rows.dim, batch = question.queries.count;
    all_logits<T>(question.rows, question.queries, question.digits, lists, high, low);
    share_out_many(lists.hands(batch, dim), batch, [&](int64_t query) {
        double* total = directions.total + query * dim;
        OneProduct<T> product(directions, query, dim, total);
        for (int64_t k = lists.first[query]; k < lists.first[query + 1]; ++k)
            if (high[k] > kNothing)
                product.add(row_of<T>(question.rows, lists.row[k]), product.weight(high[k], low[k]));
        product.finish();
    });
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// Products over a span in directions->total. Returns 0, or 1 where memory is short.
ORACLE_EXPORT int oracle_covariance(const RowsView* rows, const AskedQueries* queries, const Digits* digits,
                                    const ScanView* asked, const DirectionsView* directions) {
    return with_question(*rows, *queries, *digits, *asked, [&](const Question& question) {
        with_storage(rows->storage, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            shared_out(question, [&](int64_t share, int64_t start, int64_t stop, int64_t first, int64_t last) {
                product_share<T>(question, *directions, share, start, stop, first, last);
            });
        });
        return 0;
    });
}

// Products over the rows that a scan has listed in directions->total, [B, dim]. overflowed, [B], becomes 1 for queries
// that list too many, of which there is no product, and else 0. Returns 0, or 1 where memory is short.
ORACLE_EXPORT int oracle_covariance_of_listed(const ScanAsked* asked, const DirectionsView* directions,
                                              uint8_t* overflowed) {
    return with_question(*asked->rows, asked->queries, *asked->digits, ScanView{}, [&](const Question& question) {
        const Listed listed = static_cast<Steps*>(asked->begun)->list(overflowed);
        const ListsView lists = {listed.first.data(), listed.row.data(), usable_threads(asked->threads)};
        std::vector<double> room(2 * listed.row.size());
        with_storage(question.rows.storage, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            product_lists<T>(question, *directions, lists, room.data(), room.data() + listed.row.size());
        });
        return 0;
    });
}
