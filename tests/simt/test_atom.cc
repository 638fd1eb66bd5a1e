// The matrix atom in all operand orders, for both types, at tile widths that are exchanged and
// padded; and the layout probe, which must fail for each wrong table.
#include <cmath>
#include <random>

#include "harness.h"
#include "kernels/atom.cuh"
#include "simt/layout_probe.cuh"

namespace {

using namespace warploom::simt;  // NOLINT

template <class T>
std::vector<T> random_matrix(int size, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<T> m(static_cast<size_t>(size * size));
  for (T& x : m) x = to<T>(normal(rng));
  return m;
}

// Only the order of fp32 sums differs, so a bound relative to the sum of magnitudes is tight.
void compare(const std::vector<float>& got, const std::vector<double>& want,
             const std::vector<double>& magnitude, const char* what) {
  for (size_t i = 0; i < got.size(); ++i) {
    simt_test::expect(std::abs(got[i] - want[i]) <= 1e-6 * magnitude[i],
                      std::string(what) + "[" + std::to_string(i) + "] is " +
                          std::to_string(got[i]) + ", must be " + std::to_string(want[i]));
  }
}

template <class M, class T, int Cols, bool ATransposed, bool BByRows>
outcome check_product() {
  using kernel = warploom::simt::test::atom_product<M, T, Cols, ATransposed, BByRows>;
  constexpr int n = kernel::size;
  const auto a = random_matrix<T>(n, 1), b = random_matrix<T>(n, 2);
  std::vector<float> d(a.size()), e(a.size());
  const auto A = [&](int m, int k) {
    return to_float(a[static_cast<size_t>(ATransposed ? k * n + m : m * n + k)]);
  };
  const auto B = [&](int k, int c) {
    return to_float(b[static_cast<size_t>(BByRows ? k * n + c : c * n + k)]);
  };
  const auto count = static_cast<int64_t>(a.size());
  auto o = launch<kernel>({1}, kernel::smem_bytes, nullptr,
                          {make_global<const T>(a.data(), count, memory::written),
                           make_global<const T>(b.data(), count, memory::written),
                           make_global(d.data(), count, memory::unwritten),
                           make_global(e.data(), count, memory::unwritten)});
  if (!o.ok()) return o;
  std::vector<double> want(a.size()), magnitude(a.size());
  const auto multiply = [&](auto left) {
    for (int m = 0; m < n; ++m) {
      for (int c = 0; c < n; ++c) {
        double sum = 0, size = 0;
        for (int k = 0; k < n; ++k) {
          const double x = static_cast<double>(left(m, k)) * static_cast<double>(B(k, c));
          sum += x;
          size += std::abs(x);
        }
        want[static_cast<size_t>(m * n + c)] = sum;
        magnitude[static_cast<size_t>(m * n + c)] = size;
      }
    }
  };
  multiply(A);
  compare(d, want, magnitude, "D");
  multiply([&](int m, int k) { return to_float(to<T>(d[static_cast<size_t>(m * n + k)])); });
  compare(e, want, magnitude, "E");
  return o;
}

template <class T, int Cols>
void check_orders() {
  simt_test::expect_clean([]<class M>() { return check_product<M, T, Cols, false, false>(); });
  simt_test::expect_clean([]<class M>() { return check_product<M, T, Cols, false, true>(); });
  simt_test::expect_clean([]<class M>() { return check_product<M, T, Cols, true, false>(); });
  simt_test::expect_clean([]<class M>() { return check_product<M, T, Cols, true, true>(); });
}

template <class M, class T>
std::string probe() {
  using kernel = layout_probe<M, T>;
  std::vector<float> out(kernel::results);
  const session s;
  const auto o = launch<kernel>({1}, kernel::smem_bytes, nullptr,
                                {make_global(out.data(), kernel::results, memory::unwritten)});
  return o.ok() ? kernel::verify(out.data()) : o.error;
}

// Tables with one mistake each. The probe must not believe them.
template <class M>
struct wrong_a : M {
  static constexpr position a(int lane, int e) { return M::a(lane, e ^ 2); }
};
template <class M>
struct wrong_b : M {
  static constexpr position b(int lane, int e) { return M::b(lane ^ 1, e); }
};
template <class M>
struct wrong_c : M {
  static constexpr position c(int lane, int e) {
    const position p = M::c(lane, e);
    return {p.col, p.row};
  }
};
template <class M>
struct wrong_rows : M {
  static constexpr int row_mask_high = M::row_mask_low;
};

template <template <class> class Wrong>
void expect_refused() {
  simt_test::for_every_seed([](const std::string& where) {
    const std::string said = emulator::settings().lanes == 32 ? probe<Wrong<mma32>, bf16>()
                                                              : probe<Wrong<mfma64>, bf16>();
    simt_test::expect(!said.empty(), where + "the probe believed a wrong table");
  });
}

}  // namespace

SIMT_CASE(atom_bf16_cols16) { check_orders<bf16, 16>(); }
SIMT_CASE(atom_bf16_cols32) { check_orders<bf16, 32>(); }
SIMT_CASE(atom_bf16_cols64) { check_orders<bf16, 64>(); }
SIMT_CASE(atom_bf16_cols80_padded) { check_orders<bf16, 80>(); }
SIMT_CASE(atom_bf16_cols128) { check_orders<bf16, 128>(); }
SIMT_CASE(atom_f16_cols64) { check_orders<f16, 64>(); }
SIMT_CASE(atom_f16_cols96_padded) { check_orders<f16, 96>(); }

SIMT_CASE(layout_probe_believes_the_tables) {
  simt_test::expect_clean([]<class M>() -> outcome {
    const std::string b = probe<M, bf16>();
    return {b.empty() ? probe<M, f16>() : b};
  });
}
SIMT_CASE(layout_probe_refuses_a_wrong_a) { expect_refused<wrong_a>(); }
SIMT_CASE(layout_probe_refuses_a_wrong_b) { expect_refused<wrong_b>(); }
SIMT_CASE(layout_probe_refuses_a_wrong_c) { expect_refused<wrong_c>(); }
SIMT_CASE(layout_probe_refuses_wrong_row_masks) { expect_refused<wrong_rows>(); }

// Eight rows of one column of chunks, as a fragment load takes them, must lie in eight different
// groups of banks; and a tile must map its elements one to one.
template <int Cols>
static void check_tile() {
  using t = tile<bf16, Cols>;
  std::set<int> used;
  for (int row = 0; row < 64; ++row) {
    for (int col = 0; col < Cols; ++col) {
      const int at = t::offset(row, col);
      simt_test::expect(at >= 0 && at < t::elements(64) && used.insert(at).second,
                        "tile of " + std::to_string(Cols) + " columns is not one to one");
      simt_test::expect(col % 8 == 0 || at == t::offset(row, col - 1) + 1, "a chunk is torn");
    }
  }
  for (int row = 0; row < 64; row += 8) {
    for (int chunk = 0; chunk < Cols / 8; ++chunk) {
      std::set<int> banks;
      for (int i = 0; i < 8; ++i) banks.insert(t::offset(row + i, chunk * 8) / 8 % 8);
      simt_test::expect(banks.size() == 8,
                        "tile of " + std::to_string(Cols) + " columns conflicts");
    }
  }
}
SIMT_CASE(tiles_are_one_to_one_and_free_of_bank_conflicts) {
  check_tile<8>();
  check_tile<16>();
  check_tile<24>();
  check_tile<32>();
  check_tile<40>();
  check_tile<64>();
  check_tile<80>();
  check_tile<96>();
  check_tile<128>();
  check_tile<192>();
  check_tile<256>();
}
