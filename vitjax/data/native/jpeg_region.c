/* Decodes a rectangle of a baseline JPEG to RGB, pixel for pixel as libjpeg-turbo decodes the whole image.
 *
 * A random crop needs a part of the image. The entropy-coded data cannot be jumped over, but outside of the rectangle
 * they need not be turned into coefficients, and below it not be read at all; only blocks inside are transformed.
 *
 * Whatever is unusual (progressive, arithmetic or 12-bit coding, CMYK, restart markers, sampling other than 4:4:4,
 * 4:2:2 and 4:2:0) or looks damaged is refused, never guessed: the caller then decodes with the library, whose pixels
 * and verdict hold. Hence no code here has to agree with the library on damaged data.
 *
 * The numbers are those of the library's defaults: the accurate integer inverse DCT (Loeffler, Ligtenberg, Moschytz,
 * ICASSP 1989; 13-bit constants, 2 extra bits between the passes), triangle-filtered chroma ("fancy upsampling") and
 * 16-bit fixed-point YCbCr to RGB. JPEG itself is ITU-T T.81; section numbers below are of it.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>

#include "jpeg_entropy.h"
#include "jpeg_pixels.h"

typedef struct {
  int top, left, height, width;
} Box;

/* Samples of one component that were decoded: rows and columns [.., ..) of the component. */
typedef struct {
  int top, left, bottom, right; /* what exists of the image there; beyond lies padding */
  size_t stride;
  uint8_t *samples;
} Plane;

typedef struct {
  int first_row, last_row, first_column, last_column; /* units, inclusive */
} Units;

INLINE int smaller(int a, int b) { return a < b ? a : b; }
INLINE int larger(int a, int b) { return a > b ? a : b; }

/* Units that hold the pixels [first, first + size), and the chroma samples beside them that the filter reads. */
static void units_along(int first, int size, int total, int factor, int *from, int *to) {
  int last = first + size - 1, unit = 8 * factor;
  *from = first / unit;
  *to = last / unit;
  if (factor == 2) {
    int chroma_end = (total + 1) / 2 - 1;
    *from = smaller(*from, larger(first / 2 - 1, 0) / 8);
    *to = larger(*to, smaller(last / 2 + 1, chroma_end) / 8);
  }
}

WIDE static int read_units(const Jpeg *jpeg, Huffman *const dc[3], Huffman *const ac[3], const Units *units, Plane planes[3],
                      Reader *reader) {
  int across = jpeg->across, down = jpeg->down;
  int units_per_row = (jpeg->width + 8 * across - 1) / (8 * across), last[3] = {0};
  int32_t block[64];
  for (int row = 0; row <= units->last_row; row++) {
    int end = row == units->last_row ? units->last_column + 1 : units_per_row;
    for (int column = 0; column < end; column++) {
      int wanted = row >= units->first_row && column >= units->first_column && column <= units->last_column;
      for (int i = 0; i < jpeg->num_components; i++) {
        int h = i ? 1 : across, v = i ? 1 : down;
        for (int b = 0; b < h * v; b++) {
          if (!wanted) {
            if (!skip_block(reader, dc[i], ac[i], &last[i])) return 0;
            continue;
          }
          int kind = read_block(reader, dc[i], ac[i], &last[i], jpeg->quant[jpeg->quant_of[i]], block);
          size_t y = 8 * ((size_t)(row - units->first_row) * v + b / h);
          size_t x = 8 * ((size_t)(column - units->first_column) * h + b % h);
          uint8_t *out = planes[i].samples + y * planes[i].stride + x;
          if (!kind) return 0;
          if (kind == 1)
            fill_block(block[0], out, planes[i].stride);
          else
            inverse_dct(block, out, planes[i].stride);
        }
      }
      if (reader->next - reader->count / 8 > reader->end) return 0;
    }
  }
  return 1;
}

/* Writes chroma samples [first, first + count + 2) of image row y, weighted over rows, where `down` is 2. */
INLINE void weigh_rows(const Plane *plane, int y, int down, int first, int count, int16_t *sums) {
  int near = down == 2 ? y / 2 : y, far = down == 2 ? (y & 1 ? near + 1 : near - 1) : near;
  far = smaller(larger(far, 0), plane->bottom - 1);
  const uint8_t *a = plane->samples + (size_t)(near - plane->top) * plane->stride - plane->left;
  const uint8_t *b = plane->samples + (size_t)(far - plane->top) * plane->stride - plane->left;
  int left = larger(first, 0), right = smaller(first + count + 2, plane->right);
  int16_t *out = sums - first;
  if (down == 2)
    for (int x = left; x < right; x++) out[x] = (int16_t)(3 * a[x] + b[x]);
  else
    for (int x = left; x < right; x++) out[x] = a[x];
  if (first < left) sums[0] = sums[1];
  if (right < first + count + 2) sums[count + 1] = sums[count];
}

WIDE static void write_rgb(const Jpeg *jpeg, const Plane planes[3], const Box *box, int16_t *sums, uint16_t *chroma[2],
                           uint8_t *parts, uint8_t *line, uint8_t *rgb) {
  int across = jpeg->across, down = jpeg->down;
  for (int y = box->top; y < box->top + box->height; y++, rgb += 3 * (size_t)box->width) {
    const uint8_t *row[3];
    row[0] = planes[0].samples + (size_t)(y - planes[0].top) * planes[0].stride + box->left - planes[0].left;
    if (jpeg->num_components == 1) {
      for (int x = 0; x < box->width; x++) rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = row[0][x];
      continue;
    }
    for (int i = 1; i < 3; i++) {
      const Plane *plane = &planes[i];
      if (across == 1) {
        row[i] = plane->samples + (size_t)(y - plane->top) * plane->stride + box->left - plane->left;
        continue;
      }
      int first = box->left / 2, count = (box->left + box->width - 1) / 2 - first + 1;
      weigh_rows(plane, y, down, first - 1, count, sums);
      if (down == 2)
        widen(sums, count, 8, 7, 4, chroma[i - 1]);
      else
        widen(sums, count, 1, 2, 2, chroma[i - 1]);
      row[i] = (uint8_t *)chroma[i - 1] + (box->left & 1);
    }
    to_rgb(row[0], row[1], row[2], box->width, parts, line);
    memcpy(rgb, line, 3 * (size_t)box->width);
  }
}

/* A giant among the images should not occupy memory for good. */
#define KEPT_BYTES (16 << 20)

/* What a thread keeps from image to image: fresh memory costs page faults, fresh tables cost time. */
typedef struct {
  Huffman dc[4], ac[4];
  uint8_t *memory;
  size_t size;
} Workspace;

static pthread_key_t workspace_key;

static void free_workspace(void *workspace) {
  free(((Workspace *)workspace)->memory);
  free(workspace);
}

/* Returns this thread's workspace with at least `size` bytes of memory, or NULL. */
static Workspace *workspace_of_thread(size_t size) {
  Workspace *workspace = pthread_getspecific(workspace_key);
  if (!workspace) {
    workspace = calloc(1, sizeof *workspace);
    if (!workspace || pthread_setspecific(workspace_key, workspace)) {
      free(workspace);
      return NULL;
    }
  }
  if (workspace->size < size) {
    free(workspace->memory);
    workspace->memory = malloc(size);
    workspace->size = workspace->memory ? size : 0;
  }
  return workspace->memory ? workspace : NULL;
}

/* Decodes the box into rgb[height][width][3]; 0: refused. */
static int read_region(const uint8_t *data, size_t size, const Box *box, uint8_t *rgb) {
  Jpeg jpeg;
  if (!read_headers(&jpeg, data, size)) return 0;
  if (box->top < 0 || box->left < 0 || box->height < 1 || box->width < 1) return 0;
  if (box->height > jpeg.height - box->top || box->width > jpeg.width - box->left) return 0;
  Units units;
  units_along(box->top, box->height, jpeg.height, jpeg.down, &units.first_row, &units.last_row);
  units_along(box->left, box->width, jpeg.width, jpeg.across, &units.first_column, &units.last_column);
  size_t rows = units.last_row - units.first_row + 1, columns = units.last_column - units.first_column + 1;
  size_t luma = 64 * rows * columns * jpeg.across * jpeg.down, chroma = 64 * rows * columns;
  size_t line = ((size_t)box->width + 47) & ~(size_t)15, scan = (size_t)(jpeg.end - jpeg.scan) + READ_AHEAD;
  Workspace *workspace = workspace_of_thread(10 * line + luma + 2 * chroma + scan);
  if (!workspace) return 0;
  int16_t *sums = (int16_t *)workspace->memory;
  uint16_t *lines[2] = {(uint16_t *)sums + line, (uint16_t *)sums + line + line / 2};
  uint8_t *parts = workspace->memory + 4 * line, *row = parts + 3 * line;
  uint8_t *samples = row + 3 * line, *stream = samples + luma + 2 * chroma;
  Plane planes[3];
  Huffman *dc[3], *ac[3];
  int good = 1;
  for (int i = 0; good && i < jpeg.num_components; i++) {
    int h = i ? 1 : jpeg.across, v = i ? 1 : jpeg.down;
    int part_across = i ? jpeg.across : 1, part_down = i ? jpeg.down : 1;
    planes[i] = (Plane){8 * v * units.first_row,
                        8 * h * units.first_column,
                        (jpeg.height + part_down - 1) / part_down,
                        (jpeg.width + part_across - 1) / part_across,
                        8 * h * columns,
                        samples + (i ? luma + (i - 1) * chroma : 0)};
    dc[i] = &workspace->dc[jpeg.dc_of[i]];
    ac[i] = &workspace->ac[jpeg.ac_of[i]];
    good = build_huffman(dc[i], &jpeg.dc[jpeg.dc_of[i]], 0) && build_huffman(ac[i], &jpeg.ac[jpeg.ac_of[i]], 1);
  }
  if (good) {
    Reader reader = {stream, stream + unstuff(stream, jpeg.scan, jpeg.end), 0, 0};
    good = read_units(&jpeg, dc, ac, &units, planes, &reader);
  }
  if (good) write_rgb(&jpeg, planes, box, sums, lines, parts, row, rgb);
  if (workspace->size > KEPT_BYTES) {
    free(workspace->memory);
    workspace->memory = NULL;
    workspace->size = 0;
  }
  return good;
}

static PyObject *size_of(PyObject *module, PyObject *data) {
  (void)module;
  Py_buffer view;
  Jpeg jpeg;
  if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)) return NULL;
  int good = read_headers(&jpeg, view.buf, view.len);
  PyBuffer_Release(&view);
  if (!good) Py_RETURN_NONE;
  return Py_BuildValue("iiO", jpeg.height, jpeg.width, jpeg.exif ? Py_True : Py_False);
}

static PyObject *read_into(PyObject *module, PyObject *arguments) {
  (void)module;
  Py_buffer data, out;
  Box box;
  if (!PyArg_ParseTuple(arguments, "y*(iiii)w*", &data, &box.top, &box.left, &box.height, &box.width, &out)) return NULL;
  int fits = box.height > 0 && box.width > 0 && box.height < 65536 && box.width < 65536 &&
             (int64_t)out.len >= 3 * (int64_t)box.height * box.width;
  int good = 0;
  if (fits) {
    Py_BEGIN_ALLOW_THREADS
    good = read_region(data.buf, data.len, &box, out.buf);
    Py_END_ALLOW_THREADS
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&out);
  if (!fits) {
    PyErr_SetString(PyExc_ValueError, "the box is empty, or `out` is smaller than height * width * 3 bytes");
    return NULL;
  }
  return PyBool_FromLong(good);
}

static PyMethodDef methods[] = {
    {"size", size_of, METH_O, "size(data) -> (height, width, has_exif), or None where `read` would refuse the header."},
    {"read", read_into, METH_VARARGS,
     "read(data, (top, left, height, width), out) -> whether the pixels, RGB, were written to the start of `out`."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_jpeg_region", "Rectangles of baseline JPEGs; see jpeg_region.c.", 0, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg_region(void) {
  static int made; /* the import lock is held */
  if (!made && pthread_key_create(&workspace_key, free_workspace)) return PyErr_NoMemory();
  made = 1;
  return PyModule_Create(&definition);
}
