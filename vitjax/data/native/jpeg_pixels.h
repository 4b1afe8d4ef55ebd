/* Coefficients to samples, samples to RGB. */
#pragma once

#include "common.h"

typedef int32_t Lanes __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

#define FIX(x) ((int32_t)((x)*8192 + 0.5))

/* Eight 8-point inverse transforms side by side, scaled by sqrt(8) (figure 8 of the paper), rounded off by `shift`. */
INLINE void transform(Lanes x[8], int shift) {
  Lanes z = (x[2] + x[6]) * FIX(0.541196100), half = (Lanes){0} + (1 << (shift - 1));
  Lanes even2 = z - x[6] * FIX(1.847759065), even3 = z + x[2] * FIX(0.765366865);
  Lanes even0 = ((x[0] + x[4]) << 13) + half, even1 = ((x[0] - x[4]) << 13) + half;
  Lanes a0 = even0 + even3, a3 = even0 - even3, a1 = even1 + even2, a2 = even1 - even2;
  Lanes b1 = (x[7] + x[1]) * -FIX(0.899976223), b2 = (x[5] + x[3]) * -FIX(2.562915447);
  Lanes b3 = x[7] + x[3], b4 = x[5] + x[1], b5 = (b3 + b4) * FIX(1.175875602);
  b3 = b5 - b3 * FIX(1.961570560);
  b4 = b5 - b4 * FIX(0.390180644);
  Lanes odd0 = x[7] * FIX(0.298631336) + b1 + b3, odd1 = x[5] * FIX(2.053119869) + b2 + b4;
  Lanes odd2 = x[3] * FIX(3.072711026) + b2 + b3, odd3 = x[1] * FIX(1.501321110) + b1 + b4;
  x[0] = (a0 + odd3) >> shift;
  x[7] = (a0 - odd3) >> shift;
  x[1] = (a1 + odd2) >> shift;
  x[6] = (a1 - odd2) >> shift;
  x[2] = (a2 + odd1) >> shift;
  x[5] = (a2 - odd1) >> shift;
  x[3] = (a3 + odd0) >> shift;
  x[4] = (a3 - odd0) >> shift;
}

#define LOW_1(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH_1(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_2(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_2(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)

INLINE void transpose(Lanes x[8]) {
  Lanes y[8];
  for (int i = 0; i < 8; i += 4) {
    Lanes a = LOW_1(x[i], x[i + 1]), b = HIGH_1(x[i], x[i + 1]);
    Lanes c = LOW_1(x[i + 2], x[i + 3]), d = HIGH_1(x[i + 2], x[i + 3]);
    y[i] = LOW_2(a, c);
    y[i + 1] = HIGH_2(a, c);
    y[i + 2] = LOW_2(b, d);
    y[i + 3] = HIGH_2(b, d);
  }
  for (int i = 0; i < 4; i++) {
    x[i] = LOW_4(y[i], y[i + 4]);
    x[i + 4] = HIGH_4(y[i], y[i + 4]);
  }
}

/* For x in the range of int16; two plain steps, which compilers turn into vector minima and maxima. */
INLINE uint8_t clamp(int32_t x) {
  int16_t y = (int16_t)x;
  y = y > 0 ? y : 0;
  y = y < 255 ? y : 255;
  return (uint8_t)y;
}

WIDE static void inverse_dct(const int32_t block[64], uint8_t *out, size_t stride) {
  Lanes x[8];
  memcpy(x, block, sizeof x);
  transform(x, 11);
  transpose(x);
  transform(x, 18);
  transpose(x);
  int32_t samples[64];
  uint8_t bytes[64];
  memcpy(samples, x, sizeof x);
  for (int i = 0; i < 64; i++) bytes[i] = clamp(samples[i] + 128);
  for (int r = 0; r < 8; r++) memcpy(out + r * stride, bytes + 8 * r, 8);
}

INLINE void fill_block(int32_t dc, uint8_t *out, size_t stride) {
  uint8_t value = clamp(((dc + 4) >> 3) + 128);
  for (int r = 0; r < 8; r++) memset(out + r * stride, value, 8);
}

/* Chroma of one row at the resolution of luma. sums[i] is sample i - 1 of the region, weighted over the rows; the
 * first and last are copies of their neighbours where the image ends. */
INLINE void widen(const int16_t *restrict sums, int count, int even_bias, int odd_bias, int shift,
                  uint16_t *restrict out) {
  int padded = (count + 15) & ~15; /* whole vectors; both buffers are longer */
  for (int i = 0; i < padded; i++) {
    int16_t centre = (int16_t)(3 * sums[i + 1]);
    int16_t even = (int16_t)((int16_t)(centre + sums[i] + even_bias) >> shift);
    int16_t odd = (int16_t)((int16_t)(centre + sums[i + 2] + odd_bias) >> shift);
    out[i] = (uint16_t)(even | (uint16_t)odd << 8);
  }
}

/* Converts a row of pixels; reads and writes up to 15 more. `parts` has room for 3 * (count + 16) bytes. */
INLINE void to_rgb(const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr, int count,
                   uint8_t *restrict parts, uint8_t *restrict rgb) {
  int padded = (count + 15) & ~15;
  uint8_t *restrict r = parts, *restrict g = parts + padded, *restrict b = parts + 2 * padded;
  for (int i = 0; i < padded; i++) {
    int32_t blue = cb[i] - 128, red = cr[i] - 128;
    int16_t to_r = (int16_t)((91881 * red + 32768) >> 16), to_b = (int16_t)((116130 * blue + 32768) >> 16);
    int16_t to_g = (int16_t)((-22554 * blue - 46802 * red + 32768) >> 16);
    r[i] = clamp((int16_t)(y[i] + to_r));
    g[i] = clamp((int16_t)(y[i] + to_g));
    b[i] = clamp((int16_t)(y[i] + to_b));
  }
  for (int i = 0; i < padded; i += 16, rgb += 48) {
    Bytes x, y, z;
    memcpy(&x, r + i, 16);
    memcpy(&y, g + i, 16);
    memcpy(&z, b + i, 16);
    Bytes low = __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    Bytes high = __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    Bytes middle = __builtin_shufflevector(low, high, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 0, 0, 0, 0);
    Bytes first = __builtin_shufflevector(low, z, 0, 1, 16, 2, 3, 17, 4, 5, 18, 6, 7, 19, 8, 9, 20, 10);
    Bytes second = __builtin_shufflevector(middle, z, 1, 21, 2, 3, 22, 4, 5, 23, 6, 7, 24, 8, 9, 25, 10, 11);
    Bytes third = __builtin_shufflevector(high, z, 26, 6, 7, 27, 8, 9, 28, 10, 11, 29, 12, 13, 30, 14, 15, 31);
    memcpy(rgb, &first, 16);
    memcpy(rgb + 16, &second, 16);
    memcpy(rgb + 32, &third, 16);
  }
}
