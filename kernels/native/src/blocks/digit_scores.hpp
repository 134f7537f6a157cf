// Products of a block with queries in digits: with leading digits of pairs of vectors, and with all digits of one.
#pragma once
#include "blocks/softmax.hpp"
#include "digits/leading_digits.hpp"
#include "digits/matrix_digits.hpp"
#include "digits/planes.hpp"

namespace oracle {

template <class Real, class Stored>
class DigitScores {
  public:
    static constexpr int64_t W = Tile<Real>::lanes;
    static constexpr bool bytes = sizeof(Stored) == 1;

    DigitScores(const Shape<Real>& shape, const Shared<Real>& shared, Memory<Real>& memory)
        : shape_(shape), shared_(shared), memory_(memory) {}

    // Brings the rows of a block into the bytes that are multiplied. some: whether leading digits are, for some
    // queries.
    void begin(const Stored* rows, const Block& block, bool some) {
        (void)rows, (void)block, (void)some;
        refined_ = planes_ = false;
#if defined(__AMX_INT8__)
        if constexpr (std::is_same<Real, float>::value && !bytes) {
            // all at once where whole products are made in any case
            refined_ = shared_.use.planes && !some;
            if (refined_)
                plane_rows<true>(rows, block.count, shape_, shared_.centre, memory_);
            else if (some || shared_.use.planes)
                plane_rows<false>(rows, block.count, shape_, shared_.centre, memory_);
            planes_ = shared_.use.planes && least_norm(block) >= kLeastNorm;
        }
#elif defined(__AVX2__)
        if constexpr (std::is_same<Real, float>::value && !bytes)
            if (shared_.use.codes && some) code_rows(rows, block.count, shape_.dim, shared_.centre, memory_);
#endif
#if defined(__AMX_INT8__)
        if constexpr (std::is_same<Real, float>::value && bytes)
            if (shared_.use.rows) copy_bytes(rows, block.count, shape_.dim, memory_.codes);
#endif
    }

    // Writes the products with the leading digits of the vectors [v, last), of which there are two at most.
    void leading(const Stored* rows, const Block& block, int64_t v, int64_t last, Ahead& ahead) {
        (void)rows, (void)block, (void)v, (void)last, (void)ahead;
#if defined(__AVX2__)
        if constexpr (std::is_same<Real, float>::value) {
            if constexpr (bytes && !kMatrixUnits)
                leading_bytes(rows, shape_.dim, block, v, last, ahead);
            else
                leading_bytes(static_cast<const uint8_t*>(memory_.codes), code_stride(shape_.dim), block, v, last,
                              ahead);
        }
#endif
    }

    // Writes the products with all digits of vector v.
    void whole(const Stored* rows, const Block& block, int64_t v, Ahead& ahead) {
        (void)rows, (void)block, (void)v, (void)ahead;
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value && bytes) {
            const int8_t* panel = shared_.digit_panels + v * kDigits * digit_length(shape_.dim) * W;
            const double *offsets = shared_.offsets + v * W, *units = shared_.units + v * W;
            float* out = memory_.logits + v * shape_.block * W;
#if defined(__AMX_INT8__)
            const ByteOperands of{memory_.codes, code_stride(shape_.dim), digit_length(shape_.dim), panel};
            score_digit_rows(of, block.count, offsets, units, out, ahead, lines(1));
#else
            for (int64_t r = 0; r < block.count; r += kDigitRows)
                score_digit_tile(rows + r * shape_.dim, block.count - r, shape_.dim, panel, offsets, units, out + r * W,
                                 ahead);
#endif
        }
#endif
    }

    // Whether planes hold the rows of the block as finely as single precision does.
    bool planes_serve() const { return planes_; }

    // Brings rows in codes into all of their planes.
    void refine(const Stored* rows, const Block& block) {
        (void)rows, (void)block;
#if defined(__AMX_INT8__)
        if constexpr (std::is_same<Real, float>::value && !bytes)
            if (!refined_) refine_rows(rows, block.count, shape_, shared_.centre, memory_);
#endif
        refined_ = true;
    }

    // Writes the products of rows in planes with all digits of vector v.
    void planes(const Block& block, int64_t v) {
        (void)block, (void)v;
#if defined(__AMX_INT8__)
        if constexpr (std::is_same<Real, float>::value && !bytes) {
            const int64_t length = digit_length(shape_.dim);
            const int8_t* panel = shared_.digit_panels + v * kDigits * length * W;
            const PlaneOperands of{{memory_.codes, code_stride(shape_.dim), length, panel},
                                   plane_stride(shape_.block, shape_.dim),
                                   memory_.scales,
                                   low_digits_show(block, v)};
            score_plane_rows(of, block.count, shared_.offsets + v * W, shared_.units + v * W,
                             memory_.logits + v * shape_.block * W);
        }
#endif
    }

  private:
    const Shape<Real>& shape_;
    const Shared<Real>& shared_;
    Memory<Real>& memory_;
    bool refined_ = false, planes_ = false;  // whether the block is in planes, and whether these serve

#if defined(__AVX2__)
    template <class Byte>
    void leading_bytes(const Byte* rows, int64_t stride, const Block& block, int64_t v, int64_t last, Ahead& ahead) {
        const int64_t size = digit_length(shape_.dim) * W, step = shape_.block * W;
        const int8_t* panel = shared_.digit_panels + (v * kDigits + kDigits - 1) * size;
        const LeadingOperands<Byte> of{rows,
                                       memory_.scales,
                                       stride,
                                       shape_.dim,
                                       panel,
                                       kDigits * size,
                                       shared_.in_digits + v * W,
                                       memory_.logits + v * step,
                                       step,
                                       lines(last - v)};
        last - v == 2 ? score_leading<2>(of, block.count, ahead) : score_leading<1>(of, block.count, ahead);
    }
#endif

#if defined(__AMX_INT8__)
    // The least norm of a row in units of its codes; none where a row is too small for these.
    double least_norm(const Block& block) const {
        double least = std::numeric_limits<double>::infinity();
        for (int64_t r = 0; r < block.count; ++r) {
            if (memory_.scales[r] == 0) continue;
            if (!(memory_.scales[r] >= kLeastScale)) return 0.0;
            least = std::min<double>(least, memory_.norms[r] / memory_.scales[r]);
        }
        return least;
    }

    // Whether products of low digits show beside those of some row with some query, whose rounding the law knows: where
    // few coordinates are as large as the largest one.
    bool low_digits_show(const Block& block, int64_t v) const {
        double query = std::numeric_limits<double>::infinity();
        for (int64_t b = v * W; b < std::min((v + 1) * W, shape_.batch); ++b) {
            const DigitQuery& of = shared_.in_digits[b];
            if (of.leading_norm > 0.0) query = std::min(query, of.leading_norm / of.unit);
        }
        return !(least_norm(block) * query >= kLowShare * kLowProduct * std::sqrt(static_cast<double>(shape_.dim)));
    }
#endif

    // Lines of the next block to ask for with each step of a matrix unit, which multiplies 32 rows with so many
    // vectors: all of them while this block is multiplied with all queries.
    int lines(int64_t vectors) const {
        const int64_t stored = 2 * kUnitRows * sizeof(Stored), passes = std::max<int64_t>(shape_.vectors / vectors, 1);
        return static_cast<int>((stored + passes - 1) / passes);
    }
};

}  // namespace oracle
