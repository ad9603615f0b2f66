// Sixteen floats at once, whatever the machine: one tile row. Made of as many hardware vectors as that takes (1 with
// AVX-512, 2 with AVX2, 4 with SSE or NEON), using the compiler's portable vector extension.
//
// Only for the kernel files, which are compiled once per instruction set: all functions have internal linkage.
#pragma once

#include <cstdint>

#include "../config.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define IPSM_LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define IPSM_LANES 8
#else
#define IPSM_LANES 4
#endif

namespace ipsm {
namespace {

typedef float VecF __attribute__((vector_size(4 * IPSM_LANES)));
typedef int32_t VecI __attribute__((vector_size(4 * IPSM_LANES)));
typedef uint32_t VecU __attribute__((vector_size(4 * IPSM_LANES))); // may wrap around
constexpr int kVectors = kTileSize / IPSM_LANES;

// The outcome of a comparison: one bit a lane with AVX-512, a vector of all ones or zeros elsewhere.
struct RowMask {
#if defined(__AVX512F__)
  __mmask16 m;
#else
  VecI v[kVectors];
#endif
};

struct RowF {
  VecF v[kVectors];
};

#define IPSM_EACH for (int k = 0; k < kVectors; k++)

static inline RowF broadcast(float x) {
  RowF r;
  IPSM_EACH r.v[k] = VecF{} + x;
  return r;
}
static inline RowF operator+(RowF a, RowF b) {
  IPSM_EACH a.v[k] += b.v[k];
  return a;
}
static inline RowF operator-(RowF a, RowF b) {
  IPSM_EACH a.v[k] -= b.v[k];
  return a;
}
static inline RowF operator*(RowF a, RowF b) {
  IPSM_EACH a.v[k] *= b.v[k];
  return a;
}
static inline RowF operator+(RowF a, float b) {
  IPSM_EACH a.v[k] += b;
  return a;
}
static inline RowF operator-(RowF a, float b) {
  IPSM_EACH a.v[k] -= b;
  return a;
}
static inline RowF operator*(RowF a, float b) {
  IPSM_EACH a.v[k] *= b;
  return a;
}
static inline RowF operator-(float a, RowF b) {
  IPSM_EACH b.v[k] = a - b.v[k];
  return b;
}

#if defined(__AVX512F__)

static inline RowMask operator<(RowF a, float b) {
  return {_mm512_cmp_ps_mask((__m512)a.v[0], _mm512_set1_ps(b), _CMP_LT_OQ)};
}
static inline RowMask operator>=(RowF a, float b) {
  return {_mm512_cmp_ps_mask((__m512)a.v[0], _mm512_set1_ps(b), _CMP_GE_OQ)};
}
static inline RowF min(RowF a, float b) {
  a.v[0] = (VecF)_mm512_maskz_min_ps(0xffff, (__m512)a.v[0], _mm512_set1_ps(b));
  return a;
}
// a where the mask is set, 0 elsewhere
static inline RowF keep(RowMask mask, RowF a) {
  a.v[0] = (VecF)_mm512_maskz_mov_ps(mask.m, (__m512)a.v[0]);
  return a;
}
// One bit per lane.
static inline uint32_t bits(RowMask mask) { return mask.m; }

#else

static inline RowMask operator<(RowF a, float b) {
  RowMask r;
  IPSM_EACH r.v[k] = a.v[k] < b;
  return r;
}
static inline RowMask operator>=(RowF a, float b) {
  RowMask r;
  IPSM_EACH r.v[k] = a.v[k] >= b;
  return r;
}
static inline RowF min(RowF a, float b) {
  IPSM_EACH a.v[k] = a.v[k] < b ? a.v[k] : VecF{} + b;
  return a;
}
// a where the mask is set, 0 elsewhere
static inline RowF keep(RowMask mask, RowF a) {
  IPSM_EACH a.v[k] = mask.v[k] ? a.v[k] : VecF{};
  return a;
}
// One bit per lane.
static inline uint32_t bits(RowMask m) {
  uint32_t r = 0;
  IPSM_EACH {
#if defined(__AVX2__)
    r |= (uint32_t)_mm256_movemask_ps((__m256)m.v[k]) << (8 * k);
#elif defined(__SSE2__)
    r |= (uint32_t)__builtin_ia32_movmskps((VecF)m.v[k]) << (4 * k);
#else
    for (int i = 0; i < IPSM_LANES; i++) r |= (uint32_t)(m.v[k][i] & 1) << (IPSM_LANES * k + i);
#endif
  }
  return r;
}

#endif

static inline RowF absolute(RowF a) {
  IPSM_EACH a.v[k] = (VecF)((VecI)a.v[k] & 0x7fffffff);
  return a;
}

// Sum of the 16 lanes, by halving.
static inline float sum(RowF a) {
  VecF t = a.v[0];
  for (int k = 1; k < kVectors; k++) t += a.v[k];
  typedef float Vec4 __attribute__((vector_size(16)));
#if defined(__AVX512F__)
  const __m256 u = _mm256_add_ps(_mm512_castps512_ps256((__m512)t), _mm512_maskz_extractf32x8_ps(0xff, (__m512)t, 1));
#elif defined(__AVX2__)
  const __m256 u = (__m256)t;
#endif
#if defined(__AVX2__)
  const Vec4 v = (Vec4)_mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1));
#else
  const Vec4 v = t;
#endif
  return (v[0] + v[2]) + (v[1] + v[3]);
}

// 2^x for x in [-126, 127]: round to nearest, a degree-5 polynomial of the rest (relative error 1e-7), exponent by
// addition to the bits. Any other x gives some number or NaN.
static inline RowF exp2(RowF x) {
  RowF r;
  IPSM_EACH {
    const VecF a = x.v[k];
    const VecF shifted = a + 12582912.0f; // 1.5 * 2^23: the low bits of the sum hold the rounded integer
    const VecF f = a - (shifted - 12582912.0f);
    VecF p = VecF{} + 1.3276471e-3f;
    p = p * f + 9.6755419e-3f;
    p = p * f + 5.5507131e-2f;
    p = p * f + 2.4022120e-1f;
    p = p * f + 6.9314694e-1f;
    p = p * f + 1.0000001f;
    r.v[k] = (VecF)((VecU)p + ((VecU)shifted << 23));
  }
  return r;
}

// 1 / a to float precision: an estimate and one Newton step where the machine has one, a division elsewhere.
static inline RowF reciprocal(RowF a) {
  RowF r;
  IPSM_EACH {
#if defined(__AVX512F__)
    const VecF estimate = (VecF)_mm512_maskz_rcp14_ps(0xffff, (__m512)a.v[k]);
    r.v[k] = estimate * (2.0f - a.v[k] * estimate);
#elif defined(__AVX2__)
    const VecF estimate = (VecF)_mm256_rcp_ps((__m256)a.v[k]);
    r.v[k] = estimate * (2.0f - a.v[k] * estimate);
#else
    r.v[k] = 1.0f / a.v[k];
#endif
  }
  return r;
}

static inline RowF load(const float *p) {
  RowF r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
static inline void store(float *p, RowF r) { __builtin_memcpy(p, &r, sizeof r); }

#undef IPSM_EACH

} // namespace
} // namespace ipsm
