/* What all parts of jpeg_region.c share. */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian processors only; without this module the library decodes whole images"
#endif

/* One source, compiled for AVX2 as well and chosen when the module is loaded, where the tool chain can do that. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

#define INLINE static inline __attribute__((always_inline))
