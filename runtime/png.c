/* PNG through libpng, whose errors are long jumps. The rules that keep this sound: everything that
 * must be freed lies in one struct outside the function that calls setjmp; that function has no
 * locals; freeing happens once, behind it. libpng's memory comes from our allocator. */
#include "runtime/image_internal.h"

#include <png.h>
#include <string.h>

typedef struct decoder {
  const qnet_image_source *source;
  size_t at; /* bytes consumed */
  png_structp png;
  png_infop info;
  qnet_blob *image;
  png_bytep *row;
  size_t rows;
  qnet_status status; /* of the first failure; QNET_OK: none yet */
} decoder;

/* ---- what libpng calls --------------------------------------------------------------------- */

/* png_free does not know sizes, our allocator needs them: they stand before the block. */
typedef union memory_header {
  size_t size;
  max_align_t align;
} memory_header;

static png_voidp allocate(png_structp png, png_alloc_size_t size) {
  decoder *const p = png_get_mem_ptr(png);
  if (size > QNET_IMAGE_MAX_BYTES) return NULL;
  memory_header *block = qnet_alloc(p->source->allocator, size + sizeof *block);
  if (!block) {
    p->status = QNET_NO_MEMORY;
    return NULL;
  }
  block->size = size + sizeof *block;
  return block + 1;
}

static void deallocate(png_structp png, png_voidp data) {
  const decoder *p = png_get_mem_ptr(png);
  memory_header *block = (memory_header *)data - 1;
  qnet_free(p->source->allocator, block, block->size);
}

static void read_bytes(png_structp png, png_bytep to, size_t size) {
  decoder *const p = png_get_io_ptr(png);
  if (size > p->source->size - p->at) png_error(png, "the file ends too early");
  memcpy(to, p->source->data + p->at, size);
  p->at += size;
}

/* Lack of memory is reported as such, whatever libpng makes of it. */
static void on_error(png_structp png, png_const_charp text) {
  decoder *const p = png_get_error_ptr(png);
  if (p->status == QNET_NO_MEMORY)
    qnet_out_of_memory(p->source->diag);
  else if (p->status == QNET_OK)
    p->status =
        qnet_error_in(p->source->diag, p->source->path, "the PNG file is damaged: %s", text);
  png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) {
  (void)png;
  (void)text;
}

/* ---- decoding ------------------------------------------------------------------------------ */

/* Whatever the file has becomes 8-bit grey or RGB; transparency is dropped. */
static void choose_transformations(decoder *p) {
  const int colour = png_get_color_type(p->png, p->info);
  if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(p->png);
  if (!(colour & PNG_COLOR_MASK_COLOR) && png_get_bit_depth(p->png, p->info) < 8)
    png_set_expand_gray_1_2_4_to_8(p->png);
  png_set_scale_16(p->png);
  png_set_strip_alpha(p->png);
  png_set_interlace_handling(p->png);
  png_read_update_info(p->png, p->info);
}

/* Gives up inside libpng's calls; the failure has been reported. */
static void give_up(decoder *p, qnet_status status) {
  p->status = status;
  png_longjmp(p->png, 1);
}

static void create_image(decoder *p) {
  const uint32_t height = png_get_image_height(p->png, p->info);
  const uint32_t width = png_get_image_width(p->png, p->info);
  const qnet_status status =
      qnet_image_create(p->source, height, width, png_get_channels(p->png, p->info), &p->image);
  if (status != QNET_OK) give_up(p, status);
  p->row = qnet_alloc_array(p->source->allocator, height, sizeof *p->row);
  if (!p->row) give_up(p, qnet_out_of_memory(p->source->diag));
  p->rows = height;
  const size_t stride = png_get_rowbytes(p->png, p->info);
  if (stride != p->image->bytes / height) png_error(p->png, "rows have an unexpected size");
  for (size_t y = 0; y < height; y++)
    p->row[y] = (png_bytep)p->image->data + y * stride;
}

/* Returns normally or jumps. */
static void decode_or_jump(decoder *p) {
  png_set_read_fn(p->png, p, read_bytes);
  png_set_user_limits(p->png, QNET_IMAGE_MAX_BYTES, QNET_IMAGE_MAX_BYTES);
  png_set_chunk_malloc_max(p->png, QNET_IMAGE_MAX_BYTES);
  png_read_info(p->png, p->info);
  /* Before any pixel is unpacked: a small file may announce a giant. */
  choose_transformations(p);
  create_image(p);
  png_read_image(p->png, p->row);
  png_read_end(p->png, NULL);
}

static void decode(decoder *p) {
  if (setjmp(png_jmpbuf(p->png))) return;
  decode_or_jump(p);
}

qnet_status qnet_png_decode(const qnet_image_source *s, qnet_blob **out) {
  decoder p = {.source = s};
  p.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &p, on_error, on_warning, &p, allocate,
                                   deallocate);
  p.info = p.png ? png_create_info_struct(p.png) : NULL;
  if (p.info)
    decode(&p);
  else
    p.status = qnet_out_of_memory(s->diag);
  png_destroy_read_struct(&p.png, &p.info, NULL);
  if (p.row) qnet_free(s->allocator, p.row, p.rows * sizeof *p.row);
  if (p.status == QNET_OK)
    *out = p.image;
  else
    qnet_blob_release(p.image);
  return p.status;
}
