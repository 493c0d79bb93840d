/* Batches, augmentation and shuffling. Random numbers are counter-based (Philox 4x32, ten rounds):
 * key = the seed; counter = (index, epoch, purpose). No state, so that order and number of threads
 * do not matter and a resumed run continues as if nothing had happened. */
#include "runtime/dataset.h"

#include <Random123/philox.h>
#include <string.h>

enum { PURPOSE_AUGMENT = 0x61756773, PURPOSE_SHUFFLE = 0x73687566 };

static philox4x32_ctr_t random_words(uint64_t seed, uint64_t epoch, uint32_t index,
                                     uint32_t purpose) {
  const philox4x32_ctr_t counter = {{index, (uint32_t)epoch, (uint32_t)(epoch >> 32), purpose}};
  const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  return philox4x32(counter, key);
}

/* A random number below n (n <= 2^31; the bias is below n / 2^64). */
static uint32_t below(uint32_t high, uint32_t low, uint32_t n) {
  const uint64_t word = (uint64_t)high << 32 | low;
  return (uint32_t)((unsigned __int128)word * n >> 64);
}

void qnet_dataset_shuffle(uint32_t *index, size_t count, uint64_t seed, uint64_t epoch) {
  for (size_t i = 0; i < count; i++)
    index[i] = (uint32_t)i;
  for (size_t i = count; i > 1; i--) {
    const philox4x32_ctr_t r = random_words(seed, epoch, (uint32_t)i, PURPOSE_SHUFFLE);
    const size_t j = below(r.v[0], r.v[1], (uint32_t)i);
    const uint32_t last = index[i - 1];
    index[i - 1] = index[j];
    index[j] = last;
  }
}

/* What is done to one image. */
typedef struct placement {
  int64_t down, right; /* out(y, x) = in(y + down, x + right), 0 outside */
  bool mirrored;
} placement;

static placement choose_placement(const qnet_augment *augment, uint64_t seed, uint64_t epoch,
                                  uint32_t index) {
  const philox4x32_ctr_t r = random_words(seed, epoch, index, PURPOSE_AUGMENT);
  placement p = {0, 0, augment->flip && (r.v[3] & 1)};
  if (augment->crop_pad > 0) {
    const uint32_t places = 2 * (uint32_t)augment->crop_pad + 1;
    p.down = (int64_t)below(r.v[0], 0, places) - augment->crop_pad;
    p.right = (int64_t)below(r.v[1], 0, places) - augment->crop_pad;
  }
  return p;
}

static void place_image(const qnet_dataset *s, const uint8_t *in, placement p, uint8_t *out) {
  const size_t pixel = (size_t)s->channels;
  for (int64_t y = 0; y < s->height; y++) {
    const int64_t from_y = y + p.down;
    for (int64_t x = 0; x < s->width; x++, out += pixel) {
      const int64_t from_x = (p.mirrored ? s->width - 1 - x : x) + p.right;
      if (from_y < 0 || from_y >= s->height || from_x < 0 || from_x >= s->width)
        memset(out, 0, pixel);
      else
        memcpy(out, in + (size_t)(from_y * s->width + from_x) * pixel, pixel);
    }
  }
}

static qnet_status fill_image(const qnet_dataset *s, const qnet_item *item, uint32_t index,
                              const qnet_augment *augment, uint64_t seed, uint64_t epoch,
                              uint8_t *out) {
  if (augment && (augment->crop_pad > 0 || augment->flip))
    place_image(s, item->pixels, choose_placement(augment, seed, epoch, index), out);
  else
    memcpy(out, item->pixels, (size_t)(s->height * s->width * s->channels));
  return QNET_OK;
}

qnet_status qnet_dataset_batch(const qnet_dataset *s, const uint32_t *index, size_t count,
                               const qnet_augment *augment, uint64_t seed, uint64_t epoch,
                               uint8_t *images, int32_t *labels, qnet_diag *d) {
  const size_t bytes = (size_t)(s->height * s->width * s->channels);
  for (size_t i = 0; i < count; i++) {
    qnet_item item;
    labels[i] = s->labels[index[i]];
    QNET_TRY(s->load(s, index[i], &item, d));
    const qnet_status status =
        fill_image(s, &item, index[i], augment, seed, epoch, images + i * bytes);
    qnet_item_release(&item);
    QNET_TRY(status);
  }
  return QNET_OK;
}
