// What a scan is asked, as scan.py fills it in, and the memory of its threads.
#pragma once
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "core/directions.hpp"
#include "core/matrix_units.hpp"
#include "products/law.hpp"
#include "products/tiles.hpp"
#include "threads/threads.hpp"

namespace oracle {

enum Stored : int64_t { kUint8, kInt8, kHalf, kBrain, kFloat, kDouble };

struct ScanProblem {
    const void* rows;           // [N, D], of the dtype `stored`
    const double* half_norms;   // [N]
    const double* log_weights;  // [N], or null for equal weights
    const double* centre;       // [D], to be taken off each row
    const double* point;        // [B, D]
    const double* gain;         // [B]
    const double* bias;         // [B], the factor of half norms
    const QueryLaw* law;        // [B]
    const double* known;        // [B], logs of what weights sum to at least, or null
    ChangesView changes;        // what weights are multiplied with
    const int64_t* excluded;    // [B, ranges, 2]
    char* memory;               // as much as a scan takes, at a multiple of 64
    double* sums;               // [6, B]: reference, partition, mass, squares, first logit, half norm
    double* mean;               // [B, D]
    double* top_logits;         // [threads, B, top]
    int64_t* top_rows;          // [threads, B, top]
    int64_t* kept;              // [B]: listed pairs, -1 for a query whose list overflowed
    ScanLaw scan;
    // short_block: rows of a block of which few may matter. block: rows of one that is multiplied whole. listed: most
    // pairs that a query may list. few: whether queries are few
    int64_t stored, wide, dim, batch, ranges, threads, listed, top, wants_mean, wants_moments, short_block, block, few;
};

// The log of what the weights of a query sum to at least: what is `met`, or what is known before.
inline double least_partition(const ScanProblem& problem, int64_t b, double met) {
    return problem.known == nullptr ? met : std::max(met, problem.known[b]);
}

// From which logit on a row of a query counts, at the log of what is met of its weights.
inline double weight_floor(const ScanProblem& problem, int64_t b, double met) {
    const double partition = least_partition(problem, b, met);
    return partition - windows_at(problem.scan, problem.law[b], partition).weight;
}

// Rounds up to a multiple.
constexpr int64_t padded(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// Hands out aligned pieces of a buffer, or adds up their sizes where it is null.
class Arena {
  public:
    explicit Arena(char* begin) : begin_(begin) {}

    template <class T>
    T* take(int64_t count) {
        T* found = begin_ ? reinterpret_cast<T*>(begin_ + used_) : nullptr;
        const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
        used_ += padded(bytes, 64);
#if defined(__SANITIZE_ADDRESS__)
        // a gap that nobody may touch: the pieces of one buffer are as far apart as those of several
        if (begin_) __asan_unpoison_memory_region(found, bytes);
        if (begin_) __asan_poison_memory_region(begin_ + used_, 64);
        used_ += 64;
#endif
        return found;
    }

    int64_t used() const { return used_; }

  private:
    char* begin_;
    int64_t used_ = 0;
};

// The sizes that the memory of a scan is cut by.
template <class Real>
struct Shape {
    static constexpr int64_t W = Tile<Real>::lanes, P = Tile<Real>::panel, Q = Tile<Real>::queries;
    int64_t batch, vectors, dim, panels, width, block, tiles, of_tile, top, listed;

    explicit Shape(const ScanProblem& problem)
        : batch(problem.batch),
          vectors(padded(problem.batch, W) / W),
          dim(problem.dim),
          panels(problem.few ? 1 : padded(problem.dim, P) / P),
          // coordinates of a panel of sums; few queries have theirs in one piece
          width(problem.few ? padded(problem.dim, P) : P),
          block(problem.block),
          tiles(problem.few ? problem.batch : vectors * W / Q),
          of_tile(problem.few ? 1 : Q),
          top(problem.top),
          listed(problem.listed) {}

    // queries and sums: those of few queries are not padded to vectors
    int64_t lanes() const { return vectors * W; }
    // rows of a block up to a whole vector
    int64_t rows() const { return padded(block, W); }
    int64_t offset(int64_t panel, int64_t query) const { return (panel * lanes() + query) * width; }
};

// bytes ahead of what is read that are asked for: the hardware by itself reads at a third of the rate (measured)
constexpr int64_t kFarAhead = 8192;

ORACLE_INLINE void fetch_ahead(const void* at) {
    __builtin_prefetch(static_cast<const char*>(at) + kFarAhead);
}

// The same for so many bytes.
ORACLE_INLINE void fetch_ahead(const void* at, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += Ahead::line) fetch_ahead(static_cast<const char*>(at) + line);
}

// A query in digits of eight bits, see digits.hpp. digits: [kDigits][width], the lowest first. offset: its product with
// the centre, and with what rows are shifted by to be without a sign; leading_offset: that of its leading digits. unit:
// the value of one. leading_norm, lower_norm: of its leading digits, and of all others.
struct DigitQuery {
    int8_t* digits;
    int64_t width, offset, leading_offset;
    double unit, leading_norm, lower_norm;
};

// What queries in digits are multiplied with: 8-bit rows as they are stored, all digits; rows of which few may matter,
// leading digits first; rows that are brought into codes of eight bits for that. single: whether rows that may matter
// are multiplied with the queries as they are. weights: whether weights may be digits, too. planes: whether rows of
// other dtypes are brought into as many digits as queries, of which codes are the highest. alone: whether queries are
// multiplied in digits only.
struct DigitUse {
    bool rows = false, leading = false, codes = false, single = false, weights = false, planes = false, alone = false;

    bool any() const { return rows || leading; }
};

// coordinates of a query in digits: a multiple of those that are read together
constexpr int64_t digit_width(int64_t dim) {
    return padded(dim, dim <= 64 ? 64 : 128);
}

// the digits of a query, at most
constexpr int64_t digits_of(int64_t dim) {
    return 3 * digit_width(dim);
}

// coordinates that are multiplied together
constexpr int64_t kTogether = 4;

// coordinates of a panel of queries in digits
constexpr int64_t digit_length(int64_t dim) {
    return padded(dim, kMatrixUnits ? kUnitBytes : kTogether);
}

// bytes from one row in codes to the next: those of a tile of a matrix unit do not all fall into a few sets of a cache
constexpr int64_t code_stride(int64_t dim) {
    return padded(dim, 64) + (kMatrixUnits ? kUnitBytes : 0);
}

// rows in bytes that are multiplied together, at most
constexpr int64_t kRowsOfBytes = kMatrixUnits ? 2 * kUnitRows : 1;

// digits of a row in planes, and bytes from one plane of a block to the next
constexpr int kPlanes = 3;
constexpr int64_t plane_stride(int64_t block, int64_t dim) {
    return padded(block, kRowsOfBytes) * code_stride(dim);
}

// What all threads read: the queries as the products want them, in digits and one after the other too where these are
// used, and the centre, [panels * width].
template <class Real>
struct Shared {
    DigitUse use;
    Real* queries;  // null where digits serve alone
    Real* centre;
    Real* directions;         // as the queries, or null
    int8_t* digits;           // [B][kDigits][digit_width]
    DigitQuery* in_digits;    // [lanes]
    int8_t* digit_panels;     // [vectors][kDigits][digit_length / 4][W][4], of many queries
    double *offsets, *units;  // [lanes], of the queries in digits
    Real* single;             // [B][code_stride], or null
    int32_t* whole_centre;    // [panels * width]: of rows in bytes as weighted sums in digits read them, or null

    Shared(const Shape<Real>& shape, bool few, DigitUse uses, Arena& arena, bool changes = false)
        : use(uses),
          queries(use.alone ? nullptr : arena.take<Real>(shape.lanes() * shape.panels * shape.width)),
          centre(arena.take<Real>(shape.panels * shape.width)),
          directions(changes ? arena.take<Real>(shape.lanes() * shape.panels * shape.width) : nullptr),
          digits(use.any() ? arena.take<int8_t>(shape.batch * digits_of(shape.dim)) : nullptr),
          in_digits(arena.take<DigitQuery>(shape.lanes())),
          digit_panels(use.any() && !few ? arena.take<int8_t>(shape.lanes() * digits_of(shape.dim)) : nullptr),
          offsets(arena.take<double>(shape.lanes())),
          units(arena.take<double>(shape.lanes())),
          single(use.single ? arena.take<Real>(shape.batch * code_stride(shape.dim)) : nullptr),
          whole_centre(use.weights && !few ? arena.take<int32_t>(shape.panels * shape.width) : nullptr) {}
};

// short blocks of which whole products are made at once before leading digits are tried again: more each time
constexpr int32_t kLeastPatience = 4, kMostPatience = 256;

// largest value of the first row over its deviation, as expected
constexpr float kSpread = 4.0f;

// For how many more short blocks whole products are made for a pair of vectors of queries, and for how many the next
// time.
struct Patience {
    int32_t left, next;
};

// rows that are multiplied together where weights are digits, and digits of a weight, of eight bits each
constexpr int64_t kRowsAtOnce = 4;
constexpr int kWeightDigits = kMatrixUnits ? 3 : 2;

// rows of a block up to a whole operand of sums whose weights are digits
constexpr int64_t weighed_rows(int64_t count) {
    return padded(count, kMatrixUnits ? kUnitBytes : kRowsAtOnce);
}

// Where the digits of the weights of a block lie, for a tile of queries after the other: by groups of kRowsAtOnce rows,
// [groups][queries][kWeightDigits][kRowsAtOnce], or, as a matrix unit reads them, for the tiles that it multiplies
// together, [kWeightDigits][kUnitRows][rows]. The highest digit comes last.
struct DigitPlace {
    static constexpr int64_t Q = Tile<float>::queries, of_unit = kUnitRows / Q;
    int64_t rows;  // of the block, weighed_rows

    // Where those of a tile of queries begin.
    int64_t of_tile(int64_t t) const {
        if (!kMatrixUnits) return t * Q * kWeightDigits * rows;
        return (t / of_unit * kWeightDigits * kUnitRows + t % of_unit * Q) * rows;
    }
};

// The weights of a block for a tile of queries. digits: as DigitPlace has them. unit, total: the value of one, and the
// sum of all, [queries]. used: whether they serve in this block.
struct DigitWeights {
    static constexpr int Q = Tile<float>::queries;
    int8_t* digits;
    float unit[Q];
    int32_t total[kWeightDigits][Q];
    bool used;
};

// What one thread keeps while it scans its share of the rows.
template <class Real>
struct Memory {
    Real *rows, *logits, *half_norms, *norms, *log_weights, *sums, *reference, *floor;
    Real *scales, *errors;        // [block]: of rows in codes the value of one, and the norm of what the codes leave
    Real* spread;                 // [1]: the largest value of rows over their deviation
    uint8_t* codes;               // [planes][block][code_stride]: rows in bytes, the highest digits first, or null
    uint8_t* groups;              // [planes][P][weighed_rows]: a panel of the rows in groups of four, or null
    int8_t* weight_digits;        // [kWeightDigits][lanes][weighed_rows]: as DigitPlace has them, or null
    DigitWeights* digit_weights;  // [tiles], or null
    double *total, *met, *mass, *squares, *first_logit, *half_norm;
    double* rounded;                 // [lanes]: squared error of sums whose weights were digits
    double* shares;                  // [lanes]: sums of weights that are multiplied with changes
    Real* weights;                   // [weighed_rows][W]: of the queries at hand; of few queries [block], of one
    Real* packed;                    // [tiles][block][of_tile]: weights of the rows that have any for a tile of queries
    int32_t *index, *count;          // [tiles][block], [tiles]: these rows
    int32_t* pending;                // [tiles]: rows summed in Real since the sums were emptied into `total`
    bool* emptied;                   // [tiles]: whether they ever were
    Patience* patience;              // [vectors], at the first one of each pair
    bool* whole;                     // [vectors], there too: whether all rows of a block are multiplied whole
    Real* top_logits;                // [B][top], in falling order
    int64_t *top_rows, *list_count;  // [B][top], [B]
    int64_t* weighed;                // [1]: pairs of a row and a query whose weights were digits
    Real* uncertain;                 // [lanes]: logits from which on rounding would show
    bool* sparse;                    // [lanes]: whether all rows with weight are listed so far
    int64_t* seen;                   // [1]: rows so far
    int64_t* closed;                 // [1]: pairs of a row and a query that leading digits tell to have no weight
    int64_t* list_rows;              // [B][listed]
    double* list_logits;             // [B][listed]

    Memory(const Shape<Real>& shape, bool few, DigitUse use, Arena& arena) {
        const int64_t lanes = shape.lanes(), block = shape.block, values = shape.panels * shape.width;
        rows = few ? nullptr : arena.take<Real>(values * block);
        logits = arena.take<Real>(few ? shape.batch * shape.rows() : lanes * block);
        weights = arena.take<Real>(few ? shape.rows() : Shape<Real>::W * weighed_rows(block)),
        packed = arena.take<Real>(lanes * block);
        half_norms = arena.take<Real>(shape.rows()), log_weights = arena.take<Real>(shape.rows());
        norms = arena.take<Real>(shape.rows());
        scales = arena.take<Real>(shape.rows()), errors = arena.take<Real>(shape.rows());
        const bool bytes = use.weights && !few;
        const int64_t grouped = weighed_rows(block);
        const int64_t planes = use.planes ? kPlanes : 1;
        groups = bytes ? arena.take<uint8_t>(planes * Shape<Real>::P * grouped) : nullptr;
        digit_weights = bytes ? arena.take<DigitWeights>(shape.tiles) : nullptr;
        weight_digits = bytes ? arena.take<int8_t>(padded(lanes, kUnitRows) * grouped * kWeightDigits) : nullptr;
        spread = arena.take<Real>(1);
        const bool coded = use.codes || (kMatrixUnits && use.rows && !few);
        codes = coded ? arena.take<uint8_t>(planes * plane_stride(block, shape.dim)) : nullptr;
        sums = arena.take<Real>(lanes * values);
        total = std::is_same<Real, double>::value ? nullptr : arena.take<double>(lanes * values);
        reference = arena.take<Real>(lanes), floor = arena.take<Real>(lanes);
        met = arena.take<double>(lanes), mass = arena.take<double>(lanes), squares = arena.take<double>(lanes);
        rounded = arena.take<double>(lanes), shares = arena.take<double>(lanes),
        first_logit = arena.take<double>(lanes), half_norm = arena.take<double>(lanes);
        index = arena.take<int32_t>(shape.tiles * block), count = arena.take<int32_t>(shape.tiles);
        pending = arena.take<int32_t>(shape.tiles), emptied = arena.take<bool>(shape.tiles);
        patience = arena.take<Patience>(shape.vectors);
        whole = arena.take<bool>(shape.vectors), sparse = arena.take<bool>(lanes);
        uncertain = arena.take<Real>(lanes), seen = arena.take<int64_t>(1);
        top_logits = arena.take<Real>(lanes * shape.top), top_rows = arena.take<int64_t>(lanes * shape.top);
        list_count = arena.take<int64_t>(lanes), closed = arena.take<int64_t>(1);
        weighed = arena.take<int64_t>(1);
        list_rows = arena.take<int64_t>(lanes * shape.listed), list_logits = arena.take<double>(lanes * shape.listed);
    }
};

}  // namespace oracle
